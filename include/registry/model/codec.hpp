// Instances to stored values and back.
#pragma once

#include "registry/model/decode.hpp"  // IWYU pragma: export
#include "registry/model/encode.hpp"  // IWYU pragma: export
