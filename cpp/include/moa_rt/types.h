// Element types and devices.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace moa_rt {

enum class DType : std::uint8_t { kF32, kBF16, kF16 };

// Bytes of one element.
constexpr std::int64_t size_of(DType dtype) noexcept { return dtype == DType::kF32 ? 4 : 2; }

// "float32", "bfloat16", "float16".
const char* dtype_name(DType dtype) noexcept;

// Reads the names above and the short forms fp32, bf16, fp16. Throws ArgumentError otherwise.
DType parse_dtype(std::string_view name);

enum class DeviceType : std::uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;

  bool operator==(const Device&) const = default;
};

// Reads "cpu", "cuda" and "cuda:<index>". Throws ArgumentError otherwise.
Device parse_device(std::string_view name);
std::string device_name(const Device& device);

}  // namespace moa_rt
