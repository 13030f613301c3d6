// The generated etcd v3 messages and services, under short names. Nothing outside of etcd/ includes this.
#pragma once

#include <registry_etcd_messages.pb.h>
#include <registry_etcd_services.grpc.pb.h>

namespace registry::etcd {

namespace pb = ::registry::etcdpb;
namespace rpc = ::etcdserverpb::registry_stub;

}  // namespace registry::etcd
