// What became of an instance that we registered: the receipt, and the events of its later life.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <system_error>
#include <utility>

namespace registry {

/// The receipt of register_instance.
struct Registration {
  std::string id;               ///< of the instance
  std::int64_t lease = 0;       ///< may be shared with other instances; another one after a loss
  std::chrono::seconds ttl{0};  ///< as granted: the store may lengthen a short one
  std::int64_t revision = 0;    ///< of the key when it was written: a fencing token

  Registration() {}
  /// A receipt with these members.
  Registration(std::string instance_id, std::int64_t lease_id, std::chrono::seconds granted,
               std::int64_t at_revision)
      : id(std::move(instance_id)), lease(lease_id), ttl(granted), revision(at_revision) {}
};

/// What became of a registration.
enum class RegistrationState {
  Registered,  ///< the key is ours for the first time
  Lost,        ///< the key or its lease is gone; the reason says why. It is claimed again by itself
  Restored,    ///< the key is ours again after a loss
  Displaced,   ///< another owner holds the key; final until registered again
  Closed,      ///< deregistered or closed; final
};

/// One change of a registration.
struct RegistrationEvent {
  RegistrationState state = RegistrationState::Registered;  ///< what it is now
  std::string id;                                           ///< of the instance
  std::error_code reason;  ///< why, for Lost and Displaced; otherwise no error

  RegistrationEvent() {}
  /// An event with these members.
  RegistrationEvent(RegistrationState new_state, std::string instance_id, std::error_code why = {})
      : state(new_state), id(std::move(instance_id)), reason(why) {}

  friend bool operator==(const RegistrationEvent&, const RegistrationEvent&) = default;
};

}  // namespace registry
