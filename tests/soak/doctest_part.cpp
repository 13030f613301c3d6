// The precompiled header of the rig brings doctest along, which wants its other half in every program.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
