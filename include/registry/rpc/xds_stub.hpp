// The generated xDS messages, under a short name. Nothing outside of rpc/ includes this.
#pragma once

#include <registry_xds_messages.pb.h>

namespace registry::detail {

namespace xds = ::registry::xdspb;

}  // namespace registry::detail
