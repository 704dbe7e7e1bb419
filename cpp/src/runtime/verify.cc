#include "moa_rt/engine.h"
#include "model/checkpoint.h"

namespace moa_rt {

void verify_model(const std::string& model_dir) { Checkpoint::verify(model_dir); }

}  // namespace moa_rt
