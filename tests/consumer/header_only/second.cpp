// The second source file that includes everything: what the headers define is defined in both, and must not clash.
#include <registry/registry.hpp>

#include <asio/io_context.hpp>

#ifdef REGISTRY_COMPILED
#error "registry::header_only is not header-only"
#endif

registry::Registry& second(asio::io_context& context) {
  static registry::MemoryStore store(context.get_executor());
  static registry::Registry made(store);
  return made;
}
