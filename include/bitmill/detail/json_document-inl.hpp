// JSON documents that can be destroyed without memory. nlohmann's destructor moves a tree into a vector, against deep
// nesting; where there is no memory for that vector, it ends the program. Ours recurses: nesting is bounded by
// check_json, or by a text of 4 KiB.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace bitmill::detail {

// A serializer of our own makes these types of our own: what is specialised below is nobody else's.
template <class T, class = void>
struct json_serializer : nlohmann::adl_serializer<T, void> {};

template <template <class, class, class...> class Object>
using basic_document = nlohmann::basic_json<Object, std::vector, std::string, bool, std::int64_t,
                                            std::uint64_t, double, std::allocator, json_serializer>;
using json = basic_document<std::map>;
using ordered_json = basic_document<nlohmann::ordered_map>;

// For a message: of what is long, its beginning.
[[nodiscard]] inline std::string shortened(std::string text) {
    constexpr std::size_t most = 200;
    if (text.size() > most) text.replace(most, std::string::npos, "...");
    return text;
}
// As JSON: a text has its quotes, or "48" would look like a number.
template <class Json>
[[nodiscard]] std::string shown(const Json& value) {
    return shortened(value.dump(-1, ' ', false, Json::error_handler_t::replace));
}

template <class Pointer>
void destroy_json_part(Pointer part) noexcept {
    if (part == nullptr) return;  // a constructor threw
    std::destroy_at(part);
    std::allocator<std::remove_pointer_t<Pointer>>().deallocate(part, 1);
}

template <class Value>
void destroy_json(Value& value, nlohmann::detail::value_t type) noexcept {
    using nlohmann::detail::value_t;
    if (type == value_t::object) destroy_json_part(value.object);
    if (type == value_t::array) destroy_json_part(value.array);
    if (type == value_t::string) destroy_json_part(value.string);
    if (type == value_t::binary) destroy_json_part(value.binary);
}

}  // namespace bitmill::detail

template <>
inline void bitmill::detail::json::json_value::destroy(nlohmann::detail::value_t type) {
    bitmill::detail::destroy_json(*this, type);
}
template <>
inline void bitmill::detail::ordered_json::json_value::destroy(nlohmann::detail::value_t type) {
    bitmill::detail::destroy_json(*this, type);
}

namespace bitmill::detail {

// Whether it is this text. nlohmann's own comparison copies the text, and ends the program where there is no memory.
template <class Json>
bool is_text(const Json& value, std::string_view text) {
    return value.is_string() && value.template get_ref<const std::string&>() == text;
}

// What is no UTF-8 is replaced, never thrown at.
inline std::string dumped(const ordered_json& value, int indent) {
    return value.dump(indent, ' ', false, ordered_json::error_handler_t::replace);
}

// An object of these members, in their order. nlohmann's own initializer lists leak where memory runs out.
inline ordered_json json_object(std::initializer_list<std::pair<const char*, ordered_json>> members) {
    ordered_json made = ordered_json::object();
    for (const auto& [key, value] : members) made[key] = value;
    return made;
}

}  // namespace bitmill::detail
