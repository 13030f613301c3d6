// The one include: everything that needs no library beyond the ones the core is built on.
#pragma once

#include "registry/discovery/balancers.hpp"
#include "registry/discovery/least_loaded.hpp"
#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "registry/rpc/bidi_stream.hpp"
#include "registry/rpc/resolver.hpp"
#include "registry/rpc/serve.hpp"
#include "registry/rpc/stream_manager.hpp"
#include "registry/store/memory_store.hpp"
