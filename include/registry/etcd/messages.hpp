// The generated etcd v3 messages, under a short name.
#pragma once

#include <registry_etcd_messages.pb.h>

namespace registry::etcd {

namespace pb = ::registry::etcdpb;

}  // namespace registry::etcd
