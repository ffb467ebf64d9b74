// Compiled mode: every non-template body of the library, once.
#include <bitmill/bitmill.hpp>

#include <bitmill/detail/atomic_folder-inl.hpp>
#include <bitmill/detail/checkpoint-inl.hpp>
#include <bitmill/detail/code_book-inl.hpp>
#include <bitmill/detail/codec-inl.hpp>
#include <bitmill/detail/convert-inl.hpp>
#include <bitmill/detail/dequantize-inl.hpp>
#include <bitmill/detail/file-inl.hpp>
#include <bitmill/detail/gguf-inl.hpp>
#include <bitmill/detail/hf_config-inl.hpp>
#include <bitmill/detail/inspect-inl.hpp>
#include <bitmill/detail/layout-inl.hpp>
#include <bitmill/detail/mill-inl.hpp>
#include <bitmill/detail/model_quantizer-inl.hpp>
#include <bitmill/detail/options-inl.hpp>
#include <bitmill/detail/pickle_model-inl.hpp>
#include <bitmill/detail/plan-inl.hpp>
#include <bitmill/detail/report-inl.hpp>
#include <bitmill/detail/safetensors-inl.hpp>
#include <bitmill/detail/sha256-inl.hpp>
#include <bitmill/detail/stored-inl.hpp>
#include <bitmill/detail/tensor_writer-inl.hpp>
#include <bitmill/detail/torch-inl.hpp>
#include <bitmill/detail/variants-inl.hpp>
#include <bitmill/detail/verify-inl.hpp>
#include <bitmill/detail/weight_file-inl.hpp>
