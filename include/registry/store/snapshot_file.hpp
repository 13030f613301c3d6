// The snapshot file of a MemoryStore: JSON, replaced as a whole or not at all. Keys and values that are not
// UTF-8 are written in hexadecimal under another name.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/stream_parser.hpp>
#include <boost/json/value.hpp>
#include <boost/system/error_code.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"
#include "registry/model/limits.hpp"
#include "registry/model/text.hpp"
#include "registry/store/file.hpp"

namespace registry::detail {

/// What a snapshot file holds.
struct StoreSnapshot {
  std::string store_id;
  std::int64_t revision = 0;
  std::vector<Lease> leases;
  std::vector<std::shared_ptr<const KeyValue>> pairs;
};

inline constexpr std::string_view snapshot_format = "registry-memory-store-1";

inline std::string to_hex(std::string_view bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string out;
  out.reserve(2 * bytes.size());
  for (const char c : bytes) {
    const auto byte = static_cast<unsigned char>(c);
    (out += digits[byte >> 4]) += digits[byte & 15];
  }
  return out;
}

inline std::optional<std::string> from_hex(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  if (text.size() % 2 != 0) return std::nullopt;
  std::string out;
  out.reserve(text.size() / 2);
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const auto high = digits.find(text[i]);
    const auto low = digits.find(text[i + 1]);
    if (high == digits.npos || low == digits.npos) return std::nullopt;
    out += static_cast<char>(high << 4 | low);
  }
  return out;
}

inline std::string encode_snapshot(const StoreSnapshot& snapshot) {
  const auto set = [](boost::json::object& to, std::string name, const std::string& bytes) {
    const bool plain = is_utf8(bytes);
    if (!plain) name += "_hex";
    to[name] = plain ? bytes : to_hex(bytes);
  };
  boost::json::array leases, pairs;
  for (const Lease& lease : snapshot.leases) {
    boost::json::object& entry = leases.emplace_back(boost::json::object()).as_object();
    entry["id"] = lease.id;
    entry["ttl"] = static_cast<std::int64_t>(lease.ttl.count());
  }
  for (const auto& pair : snapshot.pairs) {
    boost::json::object& entry = pairs.emplace_back(boost::json::object()).as_object();
    set(entry, "key", pair->key);
    set(entry, "value", pair->value);
    entry["create_revision"] = pair->create_revision;
    entry["mod_revision"] = pair->mod_revision;
    entry["lease"] = pair->lease;
  }
  boost::json::object document;
  document["format"] = std::string(snapshot_format);
  document["store_id"] = snapshot.store_id;
  document["revision"] = snapshot.revision;
  document["leases"] = std::move(leases);
  document["pairs"] = std::move(pairs);
  return boost::json::serialize(document) + "\n";
}

/// Reads the fields of one snapshot; every complaint names the file and the field.
class SnapshotReader {
 public:
  explicit SnapshotReader(const std::string& file) : file_(file) {}

  StoreSnapshot read(std::string_view text) {
    boost::json::stream_parser parser;
    boost::system::error_code error;
    std::size_t used = parser.write_some(text.data(), text.size(), error);
    if (!error && used < text.size()) refuse("byte " + std::to_string(used) + ": more text behind the end");
    if (!error) parser.finish(error);
    if (error) refuse("byte " + std::to_string(used) + ": " + error.message());
    const boost::json::value document = parser.release();

    StoreSnapshot snapshot;
    const boost::json::object& top = object(document, "document");
    if (string(top, "", "format") != snapshot_format) {
      refuse("format: is not \"" + std::string(snapshot_format) + "\"");
    }
    snapshot.store_id = string(top, "", "store_id");
    if (snapshot.store_id.empty()) refuse("store_id: is empty");
    snapshot.revision = number(top, "", "revision", 1, INT64_MAX - 1);

    std::set<std::int64_t> ids(std::initializer_list<std::int64_t>{0});
    for_each(top, "leases", [&](const boost::json::object& entry, const std::string& where) {
      const std::int64_t id = number(entry, where, "id", INT64_MIN, INT64_MAX);
      if (!ids.insert(id).second) refuse(where + "id: is 0 or there twice");
      snapshot.leases.emplace_back(id, std::chrono::seconds(number(entry, where, "ttl", 1, max_ttl.count())));
    });
    for_each(top, "pairs", [&](const boost::json::object& entry, const std::string& where) {
      KeyValue pair;
      pair.key = bytes(entry, where, "key");
      if (pair.key.empty()) refuse(where + "key: is empty");
      // In order, so that a key cannot be there twice.
      if (!snapshot.pairs.empty() && pair.key <= snapshot.pairs.back()->key) {
        refuse(where + "key: is out of order");
      }
      pair.value = bytes(entry, where, "value");
      pair.mod_revision = number(entry, where, "mod_revision", 1, snapshot.revision);
      pair.create_revision = number(entry, where, "create_revision", 1, pair.mod_revision);
      pair.lease = number(entry, where, "lease", INT64_MIN, INT64_MAX);
      if (ids.count(pair.lease) == 0) refuse(where + "lease: is not among the leases");
      snapshot.pairs.push_back(std::make_shared<const KeyValue>(std::move(pair)));
    });
    return snapshot;
  }

 private:
  using Value = boost::json::value;
  using Object = boost::json::object;

  [[noreturn]] void refuse(const std::string& what) const {
    fail(errc::bad_snapshot, detail::quote(file_, 4096) + ": " + what);
  }

  const Object& object(const Value& value, const std::string& where) const {
    if (!value.is_object()) refuse(where + ": expected an object");
    return value.get_object();
  }

  const Value& field(const Object& from, const std::string& where, std::string_view name) const {
    const Value* found = from.if_contains(name);
    if (found == nullptr) refuse(where + std::string(name) + ": is missing");
    return *found;
  }

  std::string string(const Object& from, const std::string& where, std::string_view name) const {
    const Value& value = field(from, where, name);
    if (!value.is_string()) refuse(where + std::string(name) + ": expected a string");
    return std::string(value.get_string().data(), value.get_string().size());
  }

  std::string bytes(const Object& from, const std::string& where, std::string_view name) const {
    const std::string in_hex = std::string(name) + "_hex";
    if (!from.contains(in_hex)) return string(from, where, name);
    if (auto value = from_hex(string(from, where, in_hex))) return *std::move(value);
    refuse(where + in_hex + ": expected pairs of 0-9 and a-f");
  }

  std::int64_t number(const Object& from, const std::string& where, std::string_view name, std::int64_t least,
                      std::int64_t most) const {
    const Value& value = field(from, where, name);
    if (!value.is_int64()) refuse(where + std::string(name) + ": expected a whole number");
    const std::int64_t result = value.get_int64();
    if (result < least || result > most) {
      refuse(where + std::string(name) + ": " + std::to_string(result) + " is not between " +
             std::to_string(least) + " and " + std::to_string(most));
    }
    return result;
  }

  template <class Visit>
  void for_each(const Object& from, std::string_view name, Visit visit) const {
    const Value& list = field(from, "", name);
    if (!list.is_array()) refuse(std::string(name) + ": expected a list");
    std::size_t index = 0;
    for (const Value& value : list.get_array()) {
      const std::string where = std::string(name) + "[" + std::to_string(index++) + "]";
      visit(object(value, where), where + ".");
    }
  }

  const std::string& file_;
};

/// Empty: there is no such file. Throws `bad_snapshot`.
inline std::optional<StoreSnapshot> read_snapshot(const std::string& file) {
  std::error_code error;
  const std::string text = read_file(file, error);
  if (error == std::errc::no_such_file_or_directory) return std::nullopt;
  if (error) fail(errc::bad_snapshot, detail::quote(file, 4096) + ": " + error.message());
  return SnapshotReader(file).read(text);
}

/// Throws std::system_error with the system's code; the old file is then as it was.
inline void write_snapshot(const std::string& file, const StoreSnapshot& snapshot) {
  replace_file(file, encode_snapshot(snapshot));
}

}  // namespace registry::detail
