// The compiled library: what the public headers only declare when REGISTRY_COMPILED is defined.
#include "registry/async/signal_impl.hpp"
#include "registry/discovery/service_view_impl.hpp"
#include "registry/etcd/connector_impl.hpp"
#include "registry/facade/registry_impl.hpp"
#include "registry/rpc/resolver_impl.hpp"
#include "registry/rpc/serve_impl.hpp"
#include "registry/store/memory_store_impl.hpp"
