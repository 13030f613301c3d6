// The version of the library, for `#if`. The one place it is written at: CMake and the package recipes read it here.
#pragma once

/// Other majors do not work with the same program text; as long as it is 0, nor do other minors.
#define REGISTRY_VERSION_MAJOR 0
/// Grows with what is new.
#define REGISTRY_VERSION_MINOR 1
/// Grows with what is mended.
#define REGISTRY_VERSION_PATCH 0

/// All of it as one number: 10203 is 1.2.3.
#define REGISTRY_VERSION \
  (REGISTRY_VERSION_MAJOR * 10000 + REGISTRY_VERSION_MINOR * 100 + REGISTRY_VERSION_PATCH)
