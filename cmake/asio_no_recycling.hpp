// Included before everything in sanitizer builds, so that freed handlers and coroutine frames are really
// freed and a use after that is seen. Asio 1.22 names two functions without their namespace in this
// configuration; newer ones do not.
#pragma once

#define ASIO_DISABLE_AWAITABLE_FRAME_RECYCLING 1
#define ASIO_DISABLE_SMALL_BLOCK_RECYCLING 1
#define ASIO_NO_DEPRECATED 1

#include <asio/detail/memory.hpp>

namespace asio_handler_alloc_helpers {
using asio::aligned_delete;
using asio::aligned_new;
}  // namespace asio_handler_alloc_helpers
