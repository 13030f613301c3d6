// The one include: everything that needs no library beyond the ones the core is built on.
#pragma once

#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "registry/store/memory_store.hpp"
