// Found in place of the device header of this name.
#include "emulated/block.h"
