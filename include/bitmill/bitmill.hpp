// The whole library.
#pragma once

#include <bitmill/codec/code_book.hpp>
#include <bitmill/codec/codec.hpp>
#include <bitmill/codec/metrics.hpp>
#include <bitmill/codec/scheme.hpp>
#include <bitmill/core/checked.hpp>
#include <bitmill/core/config.hpp>
#include <bitmill/core/dtype.hpp>
#include <bitmill/core/error.hpp>
#include <bitmill/core/half.hpp>
#include <bitmill/core/memory.hpp>
#include <bitmill/core/parallel.hpp>
#include <bitmill/core/sha256.hpp>
#include <bitmill/io/atomic_folder.hpp>
#include <bitmill/io/checkpoint.hpp>
#include <bitmill/io/file.hpp>
#include <bitmill/io/safetensors.hpp>
#include <bitmill/kernels/dispatch.hpp>
#include <bitmill/mill/inspect.hpp>
#include <bitmill/mill/manifest.hpp>
#include <bitmill/mill/mill.hpp>
#include <bitmill/mill/options.hpp>
#include <bitmill/mill/plan.hpp>
#include <bitmill/mill/report.hpp>
#include <bitmill/mill/stored.hpp>
#include <bitmill/version.hpp>
