// What the user of the emulation may set and ask.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>

namespace emu {

enum class Order { kFifo, kLifo, kRandom };

// The order in which threads run that could all go on.
struct Schedule {
  Order order = Order::kRandom;
  unsigned seed = 1;

  // "fifo", "lifo" or "rand<seed>"; anything else is a std::invalid_argument.
  static Schedule parse(const std::string& name) {
    if (name == "fifo") return {Order::kFifo, 0};
    if (name == "lifo") return {Order::kLifo, 0};
    const std::string seed = name.rfind("rand", 0) == 0 ? name.substr(4) : "";
    if (seed.empty() || seed.size() > 9 || seed.find_first_not_of("0123456789") != std::string::npos) {
      throw std::invalid_argument("CUDA emulation: schedule: expected fifo, lifo or rand<seed>, got '" + name + "'");
    }
    return {Order::kRandom, static_cast<unsigned>(std::stoul(seed))};
  }
};

class Config {
 public:
  void set_schedule(const std::string& name) { schedule_ = Schedule::parse(name); }

  // Of the launches to come: what was set, else $EMU_SCHEDULE, else rand1.
  Schedule schedule() const {
    if (schedule_) return *schedule_;
    const char* name = std::getenv("EMU_SCHEDULE");
    return name ? Schedule::parse(name) : Schedule{};
  }

 private:
  std::optional<Schedule> schedule_;
};

// Of all launches.
struct Stats {
  unsigned launches = 0;
  std::map<std::string, unsigned> launches_by_name;  // of the kernels, as LAUNCH has them
  unsigned driver_questions = 0;                     // about the device or a kernel, and what is asked for a kernel
  uint64_t ldmatrix_wavefronts = 0;    // of 128 bytes: one a matrix, and one for each row whose banks another has
  uint64_t bytes_copied_async = 0;     // by cp.async and bulk copies, from global memory
  uint64_t bytes_to_other_blocks = 0;  // by st.async
  uint64_t prefetches = 0;
};

inline Config config;
inline Stats stats;

}  // namespace emu
