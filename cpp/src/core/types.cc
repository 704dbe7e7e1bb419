#include "moa_rt/types.h"

#include <charconv>

#include "core/message.h"
#include "moa_rt/error.h"

namespace moa_rt {

const char* dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::kBF16:
      return "bfloat16";
    case DType::kF16:
      return "float16";
    case DType::kF32:
      break;
  }
  return "float32";
}

DType parse_dtype(std::string_view name) {
  if (name == "float32" || name == "fp32") return DType::kF32;
  if (name == "bfloat16" || name == "bf16") return DType::kBF16;
  if (name == "float16" || name == "fp16") return DType::kF16;
  throw ArgumentError(describe({.field = "dtype",
                                .got = "\"" + escape_name(name) + "\"",
                                .want = "float32, bfloat16 or float16"}));
}

Device parse_device(std::string_view name) {
  if (name == "cpu") return {DeviceType::kCpu, 0};
  if (name == "cuda") return {DeviceType::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (name.starts_with(kPrefix)) {
    const std::string_view digits = name.substr(kPrefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error == std::errc() && end == digits.data() + digits.size() && index >= 0) {
      return {DeviceType::kCuda, index};
    }
  }
  throw ArgumentError(describe({.field = "device",
                                .got = "\"" + escape_name(name) + "\"",
                                .want = "cpu, cuda or cuda:<index>"}));
}

std::string device_name(const Device& device) {
  if (device.type == DeviceType::kCpu) return "cpu";
  return "cuda:" + std::to_string(device.index);
}

}  // namespace moa_rt
