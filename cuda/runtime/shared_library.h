// A library that is found when it is needed, not when the program starts.
#pragma once

#include <string>

namespace moa_rt::cuda {

// Stays open until the process ends.
class SharedLibrary {
 public:
  // `item` is what errors call it and outlives this, `missing` what they say was got without it and
  // `where` follows the file's name. Throws DeviceError if `file` cannot be opened.
  SharedLibrary(const char* item, const std::string& file, const char* missing,
                const std::string& where = "");

  // Throws DeviceError if the library has no function of that name.
  template <typename Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(address(name));
  }

 private:
  void* address(const char* name) const;

  const char* item_;
  void* library_;
};

}  // namespace moa_rt::cuda
