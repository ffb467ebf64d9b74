// Compiled mode: every non-template body of the library, once.
#include <bitmill/bitmill.hpp>

#include <bitmill/detail/code_book-inl.hpp>
#include <bitmill/detail/codec-inl.hpp>
