#!/usr/bin/env bash
# Makes the API reference with Doxygen, and fails on a public name without a docstring, a docstring that is wrong, and one that does
# not say which errors, what of cancellation, which threads: tools/api_docs.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_packages doxygen python3

cd "$project_dir"
rm -rf build/api
mkdir -p build/api
python3 tools/api_docs.py prepare include build/api/headers
doxygen docs/Doxyfile 2>&1 | sed "s|$project_dir/build/api/headers/|include/|" >&2
names="$(python3 tools/api_docs.py check build/api/xml)"
say "$names: $project_dir/build/api/index.html"
