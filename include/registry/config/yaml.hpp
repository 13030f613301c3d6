// Settings from a YAML file. Needs yaml-cpp: link registry::yaml.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <string>
#include <string_view>
#include <system_error>

#include "registry/config/settings.hpp"
#include "registry/config/settings_reader.hpp"
#include "registry/config/yaml_text.hpp"
#include "registry/model/errors.hpp"
#include "registry/store/file.hpp"

namespace registry {

namespace detail {

/// The content of a configuration file. Throws as load_settings does.
inline std::string read_settings_file(const std::string& path) {
  const auto check = [&path](bool good) {
    if (!good) throw std::system_error(system_error_now(), path + ": cannot be read");
  };
  const OpenFile file(path.c_str(), O_RDONLY | O_NONBLOCK);  // a pipe must not hold us up
  check(static_cast<bool>(file));
  struct stat about = {};
  check(::fstat(file.get(), &about) == 0);
  if (!S_ISREG(about.st_mode)) fail(errc::invalid_argument, path + ": is no regular file");
  std::error_code error;
  std::string text = read_up_to(file, max_settings_size + 1, error);
  if (error) throw std::system_error(error, path + ": cannot be read");
  if (text.size() > max_settings_size) fail_too_large(path);
  return text;
}

}  // namespace detail

/// Settings from YAML, as docs/configuration.md describes it. What is not written keeps its default; the settings are
/// valid. `file` is what errors call the text.
///
/// Throws `invalid_argument` for the first thing that is wrong, with its line and key:
/// `service.yaml:7: etcd.endpoints[1] = "10.0.0.1": use host:port, ...`. It shows what the text says, never what a variable
/// of the environment held, and never a password.
///
/// Thread safety: any thread, while nobody changes the environment.
inline Settings parse_settings(std::string_view text, const std::string& file) {
  return detail::SettingsReader(text, file).read();
}

/// Settings from a YAML file of at most 256 KiB. Errors: as parse_settings; what the system says if the file cannot be
/// read (std::errc::no_such_file_or_directory, ...). Blocks while it reads.
inline Settings load_settings(const std::string& path) {
  return parse_settings(detail::read_settings_file(path), path);
}

}  // namespace registry
