#pragma once

#include <bitmill/io/safetensors.hpp>

#include <bitmill/detail/safetensors_reader-inl.hpp>
#include <bitmill/detail/safetensors_writer-inl.hpp>
