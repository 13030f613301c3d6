// Instances to stored values and back: encode.hpp and decode.hpp in one.
#pragma once

#include "registry/model/decode.hpp"  // IWYU pragma: export
#include "registry/model/encode.hpp"  // IWYU pragma: export
