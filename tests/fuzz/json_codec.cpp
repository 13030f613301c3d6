// Stored values. Properties: decode() throws nothing and gives either an instance or a reason that can be shown; it takes what
// Boost.JSON's own parser takes and reads the same out of it; what it read, written by encode() and read again, is the same;
// what encode() writes of any text whatever is JSON to Boost.JSON, in Go's form.
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "property.hpp"
#include "registry/model/codec.hpp"

namespace json = boost::json;
using registry::Decoded;
using registry::ServiceInstance;

namespace {

constexpr std::string_view service = "s", id = "i";

std::optional<json::value> parse(std::string_view text) {
  json::parse_options options;
  options.max_depth = registry::max_value_depth;
  boost::system::error_code error;
  json::value document = json::parse(json::string_view(text.data(), text.size()), error, {}, options);
  if (error) return std::nullopt;
  return document;
}

std::string lower(std::string_view text) {
  std::string made(text);
  for (char& c : made) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return made;
}

std::string text_of(const json::value& value) {
  return value.is_string() ? std::string(value.get_string().data(), value.get_string().size()) : "";
}

/// What decode() is to make of a document without repeated names; empty: refuse it.
std::optional<ServiceInstance> expected(const json::value& document) {
  if (!document.is_object()) return std::nullopt;
  ServiceInstance made{std::string(service), std::string(id)};
  for (const auto& [name, value] : document.get_object()) {
    const std::string field = lower(std::string_view(name.data(), name.size()));
    if (field == "id" || field == "name" || field == "version") {
      if (!value.is_string() && !value.is_null()) return std::nullopt;
      if (field == "version" && value.is_string()) made.version = text_of(value);
    } else if (field == "metadata") {
      if (!value.is_object() && !value.is_null()) return std::nullopt;
      made.metadata.clear();
      if (value.is_null()) continue;
      for (const auto& [key, entry] : value.get_object()) {
        if (!entry.is_string() && !entry.is_null()) return std::nullopt;
        made.metadata[std::string(key.data(), key.size())] = text_of(entry);
      }
    } else if (field == "endpoints") {
      if (!value.is_array() && !value.is_null()) return std::nullopt;
      made.endpoints.clear();
      if (value.is_null()) continue;
      for (const json::value& entry : value.get_array()) {
        if (!entry.is_string() && !entry.is_null()) return std::nullopt;
        made.endpoints.push_back(text_of(entry));
      }
    }
  }
  return made;
}

Decoded read(std::string_view value) {
  Decoded result = registry::decode(value, service, id);
  fuzz::check(static_cast<bool>(result) == result.reason.empty(), "an instance or a reason", result.reason);
  if (result) {
    fuzz::check(result.instance.id == id && result.instance.name == service, "the key says who it is");
  } else {
    fuzz::check(result.error == registry::errc::bad_value, "errors are bad_value", result.reason);
    fuzz::check_message(result.reason, 200);
  }
  return result;
}

void check_written(const ServiceInstance& one) {
  const std::string text = registry::encode(one);
  fuzz::check(text.find_first_of("<>&") == text.npos, "HTML characters are escaped", text);
  const std::optional<json::value> document = parse(text);
  fuzz::check(document && document->is_object(), "what encode() writes is JSON to others", text);
  std::string order;
  for (const auto& [name, value] : document->get_object())
    order += std::string(name.data(), name.size()) + " ";
  fuzz::check(order == "id name version metadata endpoints ", "fields in the order of Go's struct", text);
  const json::object& fields = document->get_object();
  fuzz::check(text_of(fields.at("version")) == one.version, "the version, to others", text);
  fuzz::check(fields.at("metadata").is_null() == one.metadata.empty(), "no metadata is null", text);
  fuzz::check(fields.at("endpoints").is_null() == one.endpoints.empty(), "no endpoints are null", text);
  fuzz::check(expected(*document) == one, "others read the same", text);
  const Decoded again = read(text);
  fuzz::check(again && again.instance == one, "decode(encode(x)) == x", text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);

  const Decoded result = read(input);
  const std::optional<json::value> document = parse(input);
  fuzz::check(document || !result, "what is no JSON is refused", input);
  if (result) check_written(result.instance);
  if (document) {
    // A document has lost repeated names, and written out again it has none; but for them it says the same. (Not written:
    // a number that is too large for a double, which Boost.JSON reads but does not write as one that it reads.)
    const std::string_view plain_names[] = {"version", "metadata", "endpoints"};
    const std::optional<ServiceInstance> wanted = expected(*document);
    if (const std::string text = json::serialize(*document); parse(text)) {
      const Decoded plain = read(text);
      fuzz::check(static_cast<bool>(plain) == wanted.has_value(), "what is refused is of a wrong type", text);
      if (wanted) fuzz::check(plain.instance == *wanted, "fields are read as they stand", input);
    }
    bool repeated = false;
    if (result && document->is_object()) {
      for (const std::string_view name : plain_names) {
        std::size_t count = 0;
        for (const auto& [key, value] : document->get_object()) {
          if (lower(std::string_view(key.data(), key.size())) != name) continue;
          count += value.is_null() && name == "version" ? 2 : 1;  // a null leaves what an earlier one said
        }
        repeated = repeated || count > 1;
      }
      if (!repeated)
        fuzz::check(wanted && result.instance == *wanted, "escapes and order change nothing", input);
    }
  }

  // Any bytes as the texts of an instance: written as JSON, with U+FFFD for what is not UTF-8.
  ServiceInstance odd{std::string(service), std::string(id)};
  const std::size_t half = size / 2;
  odd.version = input.substr(0, half);
  odd.metadata[std::string(input.substr(half))] = input.substr(0, half / 2);
  odd.endpoints.emplace_back(input);
  const Decoded made = read(registry::encode(odd));
  fuzz::check(static_cast<bool>(made), "what encode() writes can be read", input);
  if (registry::detail::is_utf8(input)) {
    fuzz::check(made.instance.endpoints == odd.endpoints, "UTF-8 stays as it is", input);
  }
  check_written(made.instance);
  return 0;
}
