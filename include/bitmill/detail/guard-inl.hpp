#pragma once

#include <exception>
#include <new>
#include <regex>
#include <string>

#include <bitmill/core/error.hpp>

namespace bitmill::detail {

// The one place where what is thrown becomes an error: by regular expressions, JSON, allocation.
template <class Body>
auto guard(const std::string& model, const Body& body) -> decltype(body()) {
    try {
        return body();
    } catch (const exception& failure) {
        return failure.error();
    } catch (const std::bad_alloc&) {
        return error{.code = error_code::out_of_memory, .message = "out of memory"};
    } catch (const std::regex_error& failure) {
        return error{.code = error_code::invalid_argument,
                     .message = std::string("a regular expression is too complex: ") + failure.what()};
    } catch (const std::exception& failure) {
        return error{.code = error_code::bad_input, .message = failure.what(), .file = model};
    }
}

}  // namespace bitmill::detail
