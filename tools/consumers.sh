#!/usr/bin/env bash
# Uses the library in each way that README.md names, as someone else's project: installs it, moves what was installed, builds
# the projects of tests/consumer in folders of their own, and runs them on a private etcd server; then the Conan recipe and the
# vcpkg port, with Debian's packages in the place of theirs. One line for each check; the first that fails shows its output and
# ends the script. tools/consumers.sh, no arguments; what it made stays in build/consumers.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_packages "${build_packages[@]}" "${component_packages[@]}" etcd-server etcd-client python3 python3-venv

work="$project_dir/build/consumers"
prefix="$work/moved prefix"   # with a space: paths are quoted or they break
consumers="$project_dir/tests/consumer"
warnings="-Wall -Wextra -Wpedantic -Wshadow -Werror"
by_pkg_config=(-DCMAKE_DISABLE_FIND_PACKAGE_gRPC=ON -DCMAKE_DISABLE_FIND_PACKAGE_Protobuf=ON)
export CMAKE_GENERATOR=Ninja CMAKE_BUILD_PARALLEL_LEVEL="${REGISTRY_JOBS:-$(nproc)}"
if command -v ccache >/dev/null; then export CMAKE_CXX_COMPILER_LAUNCHER=ccache; fi

# check WORDS COMMAND...: one line, and the output where the command fails. `set -e` holds inside the command.
check() {
  local words="$1" failed=0
  shift
  set +e
  (set -e; "$@") >"$work/log" 2>&1 </dev/null
  failed=$?
  set -e
  if ((failed)); then
    printf 'FAILED  %s\n' "$words"
    cat "$work/log"
    exit 1
  fi
  printf 'ok      %s\n' "$words"
}

# says TEXT COMMAND...: the command succeeds and says so. refuses: it fails, and says why.
says() { local text="$1"; shift; "$@" 2>&1 | tee "$work/said"; grep -qF -- "$text" <(tr -s ' \n' ' ' <"$work/said"); }
refuses() {
  local text="$1"
  shift
  if "$@" >"$work/said" 2>&1; then
    cat "$work/said"
    echo "this should have failed: $*"
    return 1
  fi
  cat "$work/said"
  # CMake breaks the lines of its messages.
  grep -qF -- "$text" <(tr -s ' \n' ' ' <"$work/said") || { echo "and it does not say: $text"; return 1; }
}

# consumer FOLDER NAME [cmake argument...]: builds the project tests/consumer/NAME in build/consumers/FOLDER, quickly: without
# a build type nothing is optimized.
consumer() {
  local folder="$work/$1" name="$2"
  shift 2
  mkdir -p "$folder"
  # With their times: what has not changed is not built again.
  cp -p "$consumers/$name"/* "$folder"
  [[ -f "$folder/main.cpp" ]] || cp -p "$consumers/first_program.cpp" "$folder/main.cpp"
  cmake -S "$folder" -B "$folder/build" -DCMAKE_CXX_FLAGS="$warnings" "$@"
  cmake --build "$folder/build"
}

find_it() { cmake -S "$consumers/probe" -B "$work/probe" --fresh -DCMAKE_PREFIX_PATH="$prefix" "$@"; }

# serves PROGRAM: it registers on etcd, stays until SIGTERM, ends well, and leaves nothing behind.
serves() {
  local program="$1" key=/genesis/services/user-service/user-1 pid i
  "$program" "$etcd_endpoint" &
  pid=$!
  for ((i = 0; i < 100; ++i)); do
    if registered "$key" || ! kill -0 "$pid"; then break; fi
    sleep 0.1
  done
  registered "$key" || { kill "$pid"; echo "no key $key"; return 1; }
  kill -TERM "$pid"
  wait "$pid" || { echo "it ended with $? at SIGTERM"; return 1; }
  if registered "$key"; then echo "the key $key is still there"; return 1; fi
}
registered() { [[ -n "$(etcdctl --endpoints "$etcd_endpoint" get "$1")" ]]; }

# fails_well PROGRAM: without etcd it ends with exit code 1 and one readable line.
fails_well() {
  local code=0
  "$1" "127.0.0.1:$(free_port)" >"$work/said" 2>&1 || code=$?
  cat "$work/said"
  [[ $code == 1 && $(wc -l <"$work/said") == 1 ]] || { echo "exit code $code, or not one line"; return 1; }
}

install_library() {
  cmake -S "$project_dir" -B "$work/library" -DCMAKE_BUILD_TYPE=Release -DREGISTRY_BUILD_TESTS=OFF -DREGISTRY_BUILD_EXAMPLES=OFF
  cmake --build "$work/library"
  cmake --install "$work/library" --prefix "$work/first prefix"
  mv "$work/first prefix" "$prefix"
  rm -rf "$work/library"
}

names_no_folder() {
  if grep -rnF --include='*.cmake' -- "$project_dir" "$prefix"; then
    echo "an installed file names the folder it came from"
    return 1
  fi
}

pack_source() {
  tar -C "$project_dir" --exclude=./build --exclude='./cmake-build-*' --exclude=./.git --transform 's,^\.,registry,' \
    -czf "$work/registry.tar.gz" .
  mkdir -p "$work/add_subdirectory"
  tar -C "$work/add_subdirectory" -xzf "$work/registry.tar.gz"
}

installs_only() {
  local folder="$work/add_subdirectory" wanted="$1" found
  rm -rf "$folder/installed"
  cmake --install "$folder/build" --prefix "$folder/installed"
  found="$(cd "$folder/installed" && find . -maxdepth 3 \( -name my_server -o -path './include/registry' -o -path '*/cmake/registry' \) | sort | xargs)"
  [[ "$found" == "$wanted" ]] || { echo "installed: $found; wanted: $wanted"; return 1; }
}

# conan_with_debian COMMAND...: its packages are Debian's, under the names of ConanCenter.
conan_with_debian() {
  local package
  for package in asio/1.22.1 boost/1.81.0 grpc/1.51.1 prometheus-cpp/1.0.1 protobuf/3.21.12 spdlog/1.10.0 yaml-cpp/0.7.0; do
    conan export "$consumers/conan_debian" --name "${package%/*}" --version "${package#*/}"
  done
  printf '%s\n' 'include(default)' '[settings]' 'compiler.cppstd=20' \
    '[platform_tool_requires]' cmake/3.25.1 grpc/1.51.1 protobuf/3.21.12 >"$work/debian.profile"
  "$@" --profile:all "$work/debian.profile" --no-remote --build=missing
}

version="$(sed -n 's/^#define REGISTRY_VERSION_[A-Z]* \([0-9]*\)$/\1/p' "$project_dir/include/registry/version.hpp" | paste -sd.)"

rm -rf "$work"
mkdir -p "$work"
trap stop_etcd EXIT
start_etcd

check "the library builds and installs, and what is installed is moved" install_library
check "the installed headers are those of include/" diff -r "$project_dir/include/registry" "$prefix/include/registry"
check "no installed CMake file names a folder of the build" names_no_folder
check "find_package: the version is $version" says "found registry $version " find_it -DVERSION=0.1
check "find_package: version 0.2 is refused" refuses "\"0.2\"" find_it -DVERSION=0.2
check "find_package: version 1 is refused" refuses "\"1\"" find_it -DVERSION=1
check "find_package: a component that does not exist is refused by name" \
  refuses "component kafka is not in this installation of registry, which has: spdlog;prometheus;yaml" find_it -DCOMPONENTS=kafka
check "find_package: a component without its library says what to install" \
  refuses "component yaml of registry needs yaml-cpp (Debian: libyaml-cpp-dev)" \
  find_it -DCOMPONENTS=yaml -DCMAKE_DISABLE_FIND_PACKAGE_yaml-cpp=ON
check "find_package: a missing dependency says what to install" \
  refuses "registry needs Boost.JSON 1.81 or newer (Debian: libboost-json1.81-dev)" find_it -DCMAKE_DISABLE_FIND_PACKAGE_Boost=ON

check "find_package: a program builds" consumer find_package find_package -DCMAKE_PREFIX_PATH="$prefix"
check "find_package: it registers, ends at SIGTERM, and its key is gone" serves "$work/find_package/build/my_server"
check "find_package: without etcd it says so and ends with 1" fails_well "$work/find_package/build/my_server"
check "find_package with gRPC and protobuf by pkg-config: a program builds" \
  consumer pkg_config find_package -DCMAKE_PREFIX_PATH="$prefix" "${by_pkg_config[@]}"
check "find_package with gRPC and protobuf by pkg-config: it runs" serves "$work/pkg_config/build/my_server"
check "find_package, header-only: a program of two source files builds" consumer header_only header_only -DCMAKE_PREFIX_PATH="$prefix"
check "find_package, header-only: it runs" serves "$work/header_only/build/my_server"
check "find_package with COMPONENTS: a program builds" consumer components components -DCMAKE_PREFIX_PATH="$prefix"
check "find_package with COMPONENTS: it runs" says "registry $version " "$work/components/build/my_server"

check "the source tree packs into an archive" pack_source
# Here our headers are no system headers: their warnings count, those of the optimizer among them.
check "add_subdirectory: a program builds" consumer add_subdirectory add_subdirectory -DCMAKE_BUILD_TYPE=Release
check "add_subdirectory: it runs" serves "$work/add_subdirectory/build/my_server"
check "add_subdirectory: nothing of registry is installed with it" installs_only "./bin/my_server"
check "add_subdirectory with REGISTRY_INSTALL: it builds" \
  consumer add_subdirectory add_subdirectory -DCMAKE_BUILD_TYPE=Release -DREGISTRY_INSTALL=ON
check "add_subdirectory with REGISTRY_INSTALL: registry is installed, too" \
  installs_only "./bin/my_server ./include/registry ./lib/cmake/registry"
check "FetchContent with gRPC and protobuf by pkg-config: a program builds" \
  consumer fetch_content fetch_content -DREGISTRY_ARCHIVE="$work/registry.tar.gz" "${by_pkg_config[@]}"
check "FetchContent with gRPC and protobuf by pkg-config: it runs" serves "$work/fetch_content/build/my_server"

check "recipes: one version, the same components, and JSON that vcpkg takes" python3 "$project_dir/tools/check_recipes.py"
check "vcpkg: the port builds and installs the features asked for" \
  cmake -DCURRENT_PORT_DIR="$work/add_subdirectory/registry/packaging/vcpkg/ports/registry" "-DFEATURES=core;yaml;spdlog" \
  -DOUT="$work/vcpkg" -P "$consumers/vcpkg_stand_in/port.cmake"

get_conan() { [[ -x "$venv/bin/conan" ]] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet 'conan>=2,<3'; }; }
venv="$project_dir/build/conan"
if ! get_conan >"$work/log" 2>&1; then
  say "SKIPPED: Conan cannot be installed here: $(tail -1 "$work/log")"
  exit 0
fi
export PATH="$venv/bin:$PATH" CONAN_HOME="$work/conan"
source_tree="$work/add_subdirectory/registry"
everything=(-o "&:with_spdlog=True" -o "&:with_prometheus=True" -o "&:with_yaml=True")
check "conan: it is set up" conan profile detect --force
check "conan: the recipe loads, and has the version" says "version: $version" conan inspect "$source_tree"
# ConanCenter first: afterwards the cache has Debian's packages of the same names.
if conan graph info --requires="asio/[>=1.22]" -r conancenter >"$work/log" 2>&1; then
  check "conan: ConanCenter has what the recipe requires" \
    conan graph info "$source_tree" -s compiler.cppstd=20 "${everything[@]}" -r conancenter
else
  say "SKIPPED: ConanCenter cannot be reached here, so what the recipe requires of it was not looked up"
fi
check "conan: the package builds and passes its test_package" conan_with_debian conan create "$source_tree" "${everything[@]}"
