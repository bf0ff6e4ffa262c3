// Mistakes that a test plants in copies of the sources, all in one build: the environment chooses which is made.
#pragma once

#include <cstdlib>

// Whether it is mistake `number`; without the variable none is.
inline bool planted(int number) {
  static const char* const chosen = std::getenv("EMU_PLANTED");
  return chosen && std::atoi(chosen) == number;
}
