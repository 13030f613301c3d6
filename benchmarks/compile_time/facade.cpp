// The same without gRPC's side and without a store: what a part of a program includes that is handed a Registry.
#include <registry/facade/registry.hpp>
