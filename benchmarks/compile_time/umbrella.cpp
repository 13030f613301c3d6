// A source file that includes everything and uses nothing: what the budget is about.
#include <registry/registry.hpp>
