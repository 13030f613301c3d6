// The layout of keys, for a namespace, a group, a service, an id and a key, each on a line of the input. Properties: parse()
// undoes key_of() and takes exactly the keys with two levels below the root; a service's range holds its keys and no others;
// the end of a range is the first key behind all that begin with its begin.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "property.hpp"
#include "registry/model/keys.hpp"

using registry::InstanceKey;
using registry::KeyLayout;
using registry::KeyRange;

namespace {

/// `range` must hold what begins with its begin, and nothing else.
void check_range(const KeyRange& range, const std::string& key) {
  fuzz::check(!range.end.empty() && range.begin < range.end, "a range is not empty", range.begin);
  fuzz::check(range.contains(range.begin), "a range holds its begin", range.begin);
  fuzz::check(!range.contains(range.end), "a range ends before its end", range.end);
  fuzz::check(range.contains(range.begin + key), "a range holds what begins with its begin", key);
  fuzz::check(range.contains(range.begin + std::string(3, '\xff')), "up to the last such key", range.begin);
  fuzz::check(range.contains(key) == key.starts_with(range.begin), "a range holds nothing else", key);
  const std::string before = range.begin.substr(0, range.begin.size() - 1);
  fuzz::check(!range.contains(before), "a range does not hold what is above it", before);
}

/// One level, as parse() must find it.
bool is_level(std::string_view text) { return !text.empty() && text.find('/') == text.npos; }

void check_parsed(const KeyLayout& layout, const std::string& root, const std::string& key) {
  const std::optional<InstanceKey> parsed = layout.parse(key);
  bool instance = key.starts_with(root);
  std::size_t slash = key.npos;
  if (instance) {
    slash = key.find('/', root.size());
    instance = slash != key.npos &&
               is_level(std::string_view(key).substr(root.size(), slash - root.size())) &&
               is_level(std::string_view(key).substr(slash + 1));
  }
  fuzz::check(parsed.has_value() == instance, "instances are the keys with two levels below the root", key);
  if (!parsed) return;
  fuzz::check(layout.key_of(parsed->service, parsed->id) == key, "key_of(parse(key)) == key", key);
  fuzz::check(layout.all_range().contains(key), "the range of all services holds it", key);
  fuzz::check(layout.service_range(parsed->service).contains(key), "its service's range holds it", key);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto lines = fuzz::lines(data, size, 5);
  const std::string &name_space = lines[0], &group = lines[1], &service = lines[2], &id = lines[3],
                    &key = lines[4];
  const KeyLayout layout(name_space, group);
  const std::string root = name_space + "/" + (group.empty() ? "" : group + "/");

  check_range(layout.all_range(), key);
  check_range(layout.service_range(service), key);
  for (const std::string& one : {key, root + key, root + service + "/" + key, layout.key_of(service, id)}) {
    check_parsed(layout, root, one);
    const std::optional<InstanceKey> parsed = layout.parse(one);
    if (!parsed) continue;
    const bool mine = layout.service_range(service).contains(one);
    if (is_level(service)) fuzz::check(mine == (parsed->service == service), "of one service only", one);
  }
  if (is_level(service) && is_level(id)) {
    const std::string made = layout.key_of(service, id);
    fuzz::check(layout.parse(made) == InstanceKey(service, id), "parse(key_of(service, id))", made);
  }

  bool bounded = false;
  for (const char c : key) bounded = bounded || c != '\xff';
  try {
    check_range(KeyRange(key, registry::prefix_end(key)), id);
    fuzz::check(bounded, "no key lies behind bytes of 0xff", key);
  } catch (const std::system_error& error) {
    fuzz::check(!bounded && error.code() == registry::errc::invalid_argument, "only that is refused", key);
  }
  return 0;
}
