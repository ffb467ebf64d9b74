// Files that are built into the server.
#pragma once

#include <string>
#include <string_view>

namespace server::pages {

[[nodiscard]] std::string_view dashboard();  // dashboard.html
// Its Content-Security-Policy: nothing but the script and the style that are in it, told by their hashes.
[[nodiscard]] const std::string& dashboard_policy();
[[nodiscard]] std::string_view openapi();  // openapi.json

}  // namespace server::pages
