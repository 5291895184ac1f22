// SPDX-License-Identifier: Apache-2.0
#pragma once

#if __cplusplus < 202002L
#error "syncbn needs C++20: compile with -std=c++20 (CMake does so for what links syncbn::syncbn)"
#endif

/// The library's functions and classes are hidden from other libraries unless they are marked SYNCBN_API.
#define SYNCBN_API __attribute__((visibility("default")))
/// Marks a part of an exported class that stays hidden.
#define SYNCBN_LOCAL __attribute__((visibility("hidden")))
