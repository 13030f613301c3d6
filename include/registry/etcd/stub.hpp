// The generated etcd v3 messages and services, under short names. Nothing outside of etcd/ includes this.
#pragma once

#include <registry_etcd_services.grpc.pb.h>

#include "registry/etcd/messages.hpp"

namespace registry::etcd {

namespace rpc = ::etcdserverpb::registry_stub;

}  // namespace registry::etcd
