#pragma once

#include <bitmill/io/gguf.hpp>

#include <bitmill/detail/gguf_metadata-inl.hpp>
#include <bitmill/detail/gguf_reader-inl.hpp>
#include <bitmill/detail/gguf_writer-inl.hpp>
