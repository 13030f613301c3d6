// The stored JSON value of an instance, read back. It runs for every watch event, so a SAX handler fills the
// instance directly instead of building a document first. As tolerant as Go's encoding/json where that is
// safe: unknown fields, any order, names in any case, null for absent.
#pragma once

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/error.hpp>
#include <boost/json/string_view.hpp>
#include <boost/system/error_code.hpp>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/limits.hpp"

namespace registry {

/// The result of decode(): an instance, or why there is none.
struct Decoded {
  ServiceInstance instance;  ///< meaningful only without error
  std::error_code error;     ///< errc::bad_value, or no error
  std::string reason;        ///< what is wrong and where, in words of ours; empty without error

  Decoded() {}
  /// Whether there is an instance.
  explicit operator bool() const noexcept { return !error; }
};

namespace detail {

/// Takes the parser's events and fills an instance. Depth 1 is the document's object; everything below a
/// field that is not known is skipped by depth alone.
class InstanceHandler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);
  using error_code = boost::system::error_code;
  using string_view = boost::json::string_view;

  ServiceInstance instance;
  std::string_view where, what;  // of the first error: string literals

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }

  bool on_object_begin(error_code& ec) {
    if (depth_ == 1 && field_ == Field::Metadata) {
      instance.metadata.clear();
    } else if (depth_ != 0 && field_ != Field::Other) {
      return refuse(ec, expected());
    }
    ++depth_;
    return true;
  }
  bool on_object_end(std::size_t, error_code&) { return leave(); }

  bool on_array_begin(error_code& ec) {
    if (depth_ == 0) return refuse(ec, "expected an object");
    if (depth_ == 1 && field_ == Field::Endpoints) {
      instance.endpoints.clear();
    } else if (field_ != Field::Other) {
      return refuse(ec, expected());
    }
    ++depth_;
    return true;
  }
  bool on_array_end(std::size_t, error_code&) { return leave(); }

  bool on_key_part(string_view part, std::size_t, error_code&) {
    part_.append(part.data(), part.size());
    return true;
  }
  bool on_key(string_view last, std::size_t, error_code&) {
    if (depth_ == 1) {
      field_ = field_of(whole(last));
    } else if (field_ == Field::Metadata) {
      key_.assign(whole(last));
    }
    part_.clear();
    return true;
  }

  bool on_string_part(string_view part, std::size_t, error_code&) {
    part_.append(part.data(), part.size());
    return true;
  }
  bool on_string(string_view last, std::size_t, error_code& ec) {
    const bool taken = take_string(whole(last));
    part_.clear();
    return taken || refuse(ec, expected());
  }

  bool on_number_part(string_view, error_code&) { return true; }
  bool on_int64(std::int64_t, string_view, error_code& ec) { return no_scalar(ec); }
  bool on_uint64(std::uint64_t, string_view, error_code& ec) { return no_scalar(ec); }
  bool on_double(double, string_view, error_code& ec) { return no_scalar(ec); }
  bool on_bool(bool, error_code& ec) { return no_scalar(ec); }

  // As in Go: a null map or list is empty, a null element is an empty string, a null string leaves what is
  // there.
  bool on_null(error_code& ec) {
    if (depth_ == 0) return refuse(ec, "expected an object");
    if (depth_ == 1) {
      if (field_ == Field::Metadata) instance.metadata.clear();
      if (field_ == Field::Endpoints) instance.endpoints.clear();
    } else {
      take_string({});
    }
    return true;
  }

  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

 private:
  enum class Field { Other, Id, Name, Version, Metadata, Endpoints };

  static bool same(std::string_view text, std::string_view lower) noexcept {
    if (text.size() != lower.size()) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
      const char c = text[i];
      if ((c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c) != lower[i]) return false;
    }
    return true;
  }

  static Field field_of(std::string_view name) noexcept {
    switch (name.size()) {
      case 2: return same(name, "id") ? Field::Id : Field::Other;
      case 4: return same(name, "name") ? Field::Name : Field::Other;
      case 7: return same(name, "version") ? Field::Version : Field::Other;
      case 8: return same(name, "metadata") ? Field::Metadata : Field::Other;
      case 9: return same(name, "endpoints") ? Field::Endpoints : Field::Other;
      default: return Field::Other;
    }
  }

  std::string_view whole(string_view last) {
    if (part_.empty()) return std::string_view(last.data(), last.size());
    part_.append(last.data(), last.size());
    return part_;
  }

  // Whether a string may stand here. The id and the name are checked but not kept: the key has them.
  bool take_string(std::string_view text) {
    if (depth_ == 0) return false;
    switch (field_) {
      case Field::Version: instance.version.assign(text); return true;
      case Field::Metadata:
        if (depth_ == 1) return false;
        put(text);
        return true;
      case Field::Endpoints:
        if (depth_ == 1) return false;
        instance.endpoints.emplace_back(text);
        return true;
      default: return true;
    }
  }

  // Writers sort their keys, so the end is nearly always the right place: one comparison.
  void put(std::string_view text) {
    auto& map = instance.metadata;
    const std::size_t before = map.size();
    const auto place = map.emplace_hint(map.end(), key_, text);
    if (map.size() == before) place->second.assign(text);  // repeated: the last one counts
  }

  bool no_scalar(error_code& ec) { return (depth_ != 0 && field_ == Field::Other) || refuse(ec, expected()); }

  bool leave() noexcept {
    --depth_;
    return true;
  }

  std::string_view expected() const noexcept {
    if (depth_ == 0) return "expected an object";
    if (depth_ == 1 && field_ == Field::Metadata) return "expected an object of strings";
    if (depth_ == 1 && field_ == Field::Endpoints) return "expected a list of strings";
    return "expected a string";
  }

  bool refuse(error_code& ec, std::string_view why) {
    static constexpr std::string_view names[] = {"value", "id", "name", "version", "metadata", "endpoints"};
    where = depth_ == 0 ? "value" : names[static_cast<int>(field_)];
    what = why;
    ec = boost::json::error::syntax;  // any error stops the parser
    return false;
  }

  std::size_t depth_ = 0;       // containers that are open
  Field field_ = Field::Other;  // of the document's object
  std::string key_;             // in metadata
  std::string part_;            // a string with escapes comes in parts
};

}  // namespace detail

/// Reads a stored value. `service` and `id` are those of its key, and the key wins over what the value says.
/// Bad input is an error in the result, not an exception: not JSON, not UTF-8, over 1 MiB, deeper than 32, or
/// a field of the wrong type. Field names may come in any order and case, the last of repeated ones counts,
/// unknown ones are ignored.
inline Decoded decode(std::string_view value, std::string_view service, std::string_view id) {
  Decoded result;
  const auto refuse = [&result](std::string reason) {
    result.error = errc::bad_value;
    result.reason = std::move(reason);
  };
  if (value.size() > max_value_size) {
    refuse("value: " + std::to_string(value.size()) + " bytes, more than " + std::to_string(max_value_size));
    return result;
  }
  boost::json::parse_options options;
  options.max_depth = max_value_depth;
  boost::json::basic_parser<detail::InstanceHandler> parser(options);
  boost::system::error_code error;
  const std::size_t used = parser.write_some(false, value.data(), value.size(), error);
  if (!parser.handler().what.empty()) {
    refuse(std::string(parser.handler().where).append(": ").append(parser.handler().what));
  } else if (error) {
    refuse("value: " + error.message() + " at byte " + std::to_string(used));
  } else if (used < value.size()) {
    refuse("value: more text behind the end, at byte " + std::to_string(used));
  } else {
    result.instance = std::move(parser.handler().instance);
    result.instance.id.assign(id);
    result.instance.name.assign(service);
  }
  return result;
}

}  // namespace registry
