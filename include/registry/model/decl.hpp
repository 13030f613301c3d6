// How an _impl.hpp defines what its public header declares: in each source file that includes it, or once, in the compiled library.
#pragma once

#ifdef REGISTRY_COMPILED  // by CMake's registry::registry; without it the library is header-only
#define REGISTRY_DECL
#else
#define REGISTRY_DECL inline
#endif
