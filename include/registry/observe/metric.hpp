// The metrics of the library, in one table: what a Metrics implementation may declare before anything happens.
// docs/observability.md shows the same table.
#pragma once

#include <array>
#include <string_view>

namespace registry {

/// One metric. Names follow the conventions of Prometheus: units in the name, counters end in _total.
struct Metric {
  /// A counter only grows; a gauge goes up and down.
  enum class Kind { Counter, Gauge };

  std::string_view name;  ///< as Prometheus shows it
  Kind kind;              ///< what may be done to it
  bool by_service;        ///< has the label "service"
  std::string_view help;  ///< what it counts, and its unit
};

/// Every metric of the library; `all` lists them.
namespace metric {

/// Short for the table below.
using Kind = Metric::Kind;

inline constexpr Metric registrations{"registry_registrations_total", Kind::Counter, true,
                                      "Instances registered by a call of register_instance"};
inline constexpr Metric registration_failures{
    "registry_registration_failures_total", Kind::Counter, true,
    "Calls of register_instance that the store refused or did not answer in time"};
inline constexpr Metric registered_instances{
    "registry_registered_instances", Kind::Gauge, false,
    "Instances of this process that are in the store as far as it knows"};
inline constexpr Metric renewals{"registry_renewals_total", Kind::Counter, false, "Leases renewed"};
inline constexpr Metric renewal_failures{
    "registry_renewal_failures_total", Kind::Counter, false,
    "Renewals of a lease that failed; it is tried again until it has run out"};
inline constexpr Metric watch_events{"registry_watch_events_total", Kind::Counter, true,
                                     "Changes of instances that watches brought"};
inline constexpr Metric resyncs{"registry_resyncs_total", Kind::Counter, true,
                                "Lists that were read again because history was gone"};
inline constexpr Metric reconnects{"registry_reconnects_total", Kind::Counter, true,
                                   "Breaks of a watch or of the list before it"};
inline constexpr Metric skipped_values{"registry_skipped_values_total", Kind::Counter, true,
                                       "Values in the store that are no instance"};
inline constexpr Metric service_instances{"registry_service_instances", Kind::Gauge, true,
                                          "Instances of a followed service"};
inline constexpr Metric held_instances{
    "registry_held_instances", Kind::Gauge, true,
    "Instances that views go on showing although they vanished all at once"};
inline constexpr Metric service_confirmed{
    "registry_service_confirmed_timestamp_seconds", Kind::Gauge, true,
    "When the store last confirmed the list of a followed service, in Unix time"};
inline constexpr Metric endpoint_failures{"registry_etcd_endpoint_failures_total", Kind::Counter, false,
                                          "Failures of an etcd endpoint, which is then avoided for a while"};
inline constexpr Metric resolver_updates{"registry_resolver_updates_total", Kind::Counter, true,
                                         "Updates of a service that were published to gRPC"};
inline constexpr Metric resolver_rejections{"registry_resolver_rejections_total", Kind::Counter, false,
                                            "Updates that a gRPC client refused"};
inline constexpr Metric resolver_name_failures{"registry_resolver_name_failures_total", Kind::Counter, false,
                                               "Host names in endpoints that could not be resolved"};
inline constexpr Metric configuration_reloads{"registry_configuration_reloads_total", Kind::Counter, false,
                                              "New valid versions of a followed configuration file"};
inline constexpr Metric configuration_failures{
    "registry_configuration_failures_total", Kind::Counter, false,
    "Versions of a followed configuration file that could not be used"};

/// All of them.
inline constexpr std::array all{registrations,
                                registration_failures,
                                registered_instances,
                                renewals,
                                renewal_failures,
                                watch_events,
                                resyncs,
                                reconnects,
                                skipped_values,
                                service_instances,
                                held_instances,
                                service_confirmed,
                                endpoint_failures,
                                resolver_updates,
                                resolver_rejections,
                                resolver_name_failures,
                                configuration_reloads,
                                configuration_failures};

}  // namespace metric
}  // namespace registry
