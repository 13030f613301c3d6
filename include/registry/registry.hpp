// The one include: everything that a program uses and that needs no library beyond the ones the core is built on.
#pragma once

#include "registry/discovery/balancers.hpp"
#include "registry/discovery/least_loaded.hpp"
#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/decode.hpp"
#include "registry/model/encode.hpp"
#include "registry/model/keys.hpp"
#include "registry/rpc/bidi_stream.hpp"
#include "registry/rpc/resolver.hpp"
#include "registry/rpc/serve.hpp"
#include "registry/rpc/stream_manager.hpp"
#include "registry/store/memory_store.hpp"
#include "registry/version.hpp"

/// \namespace registry
/// The public names. Three kinds of them: what programs use; `StoreBackend` with what travels through it, for a
/// store of your own; and the decisions (policy/, each by its own header), plain types without clock, I/O or lock,
/// for whoever builds something else from them.
