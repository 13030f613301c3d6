// Snapshot files, which MemoryStore and the last known good lists read. Properties: any text gives a snapshot, or a
// std::system_error `bad_snapshot` that can be shown; what was read, written and read again is the same; what is read keeps the
// rules of a store: keys in order and once, revisions within the store's, leases that are there.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <system_error>

#include "property.hpp"
#include "registry/store/snapshot_file.hpp"

using registry::detail::StoreSnapshot;

namespace {

std::optional<StoreSnapshot> read(const std::string& text) {
  static const std::string file = "snapshot.json";
  try {
    return registry::detail::SnapshotReader(file).read(text);
  } catch (const std::system_error& error) {
    fuzz::check(error.code() == registry::errc::bad_snapshot, "refused as bad_snapshot", error.what());
    fuzz::check_message(error.what(), 300);
    return std::nullopt;
  }
}

void check_rules(const StoreSnapshot& snapshot) {
  fuzz::check(snapshot.revision >= 1 && !snapshot.store_id.empty(), "a store has an id and a revision");
  std::set<std::int64_t> leases;
  for (const auto& lease : snapshot.leases) {
    fuzz::check(lease.id != 0 && leases.insert(lease.id).second, "leases have ids of their own");
    fuzz::check(lease.ttl.count() >= 1 && lease.ttl <= registry::max_ttl, "a lease has a TTL");
  }
  std::string last;
  for (const auto& pair : snapshot.pairs) {
    fuzz::check(pair->key > last, "keys are in order, each once", pair->key);
    last = pair->key;
    fuzz::check(1 <= pair->create_revision && pair->create_revision <= pair->mod_revision &&
                    pair->mod_revision <= snapshot.revision,
                "revisions are the store's", pair->key);
    fuzz::check(pair->lease == 0 || leases.contains(pair->lease), "a key's lease is there", pair->key);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::optional<StoreSnapshot> first = read(std::string(reinterpret_cast<const char*>(data), size));
  if (!first) return 0;
  check_rules(*first);
  const std::string written = registry::detail::encode_snapshot(*first);
  const std::optional<StoreSnapshot> again = read(written);
  fuzz::check(again.has_value(), "what is written can be read", written);
  fuzz::check(again->pairs.size() == first->pairs.size() && again->store_id == first->store_id, "same store",
              written);
  for (std::size_t i = 0; i < first->pairs.size(); ++i) {
    fuzz::check(*again->pairs[i] == *first->pairs[i], "pairs are read as they were written", written);
  }
  fuzz::check(registry::detail::encode_snapshot(*again) == written, "and written as they were read", written);
  return 0;
}
