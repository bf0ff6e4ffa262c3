// Weak memory: what another block sees of a store, and when. Compiled in by -DEMU_WEAK_MEMORY, together with
// -fsanitize=thread but without its runtime: the compiler then calls the hooks at the end of this file before every
// load and store, and they keep for each block
//   a store buffer    stores wait in it until the block releases, or drift out at random, each for itself
//   L1 copies         what a plain load has read stays as it was until the block acquires
//   the past          a load may return the value before the last one, as long as the block has not acquired since
// Memory itself holds what the running block sees: when another one goes on, the two views are exchanged. A block's
// shared memory is its own, and coherent; stores into another block's go through the buffer.
//
// It is a block that is weak, not a thread: what a missing __syncthreads does is the race checker's to find.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sanitizers.h"

namespace emu::weak {

#ifdef EMU_WEAK_MEMORY
constexpr bool kOn = true;
#else
constexpr bool kOn = false;
#endif

constexpr size_t kGranule = 16;  // the widest single access

// Some bytes of a granule. In a view that memory shows, `data` is what all others see, else what its block sees.
struct Bytes {
  uint16_t mask = 0;
  uint8_t unit = 1;  // of the widest store into it, which never comes apart
  uint8_t data[kGranule] = {};
};

struct View {
  std::unordered_map<uintptr_t, Bytes> stores, stale;  // by address; no byte is in both
  std::vector<uintptr_t> waiting;                      // where there are stores, and where there were
  uint64_t acquired = 0;
  uint64_t fenced = 0;  // the last fence.proxy.async of global memory
};

struct Reader {
  View* view;
  uint64_t copied = 0;  // when the copy in L1 was made; it is gone where the block has acquired since
  uint64_t seen = 0;    // when the block last read what all see
  uint16_t mask = 0;    // of the copy
};

// What is known of 16 bytes: their last change, and who has read them.
struct Line {
  uint64_t changed = 0;
  const View* writer = nullptr;
  Bytes before;
  std::vector<Reader> readers;
};

struct Memory {
  std::unordered_map<uintptr_t, Line> lines;
  View* shown = nullptr;  // the one that memory holds
  uint64_t now = 0;
  uint32_t dice = 1;

  uint32_t random() {
    dice = dice * 1664525u + 1013904223u;
    return dice >> 12;
  }
  bool one_in(uint32_t n) { return random() % n == 0; }
};

inline Memory memory;
inline bool watching = false;  // a kernel runs, and not the emulation

// The emulation's own loads and stores, on a kernel's thread.
class Unwatched {
 public:
  EMU_UNCHECKED Unwatched() : before_(watching) { watching = false; }
  EMU_UNCHECKED ~Unwatched() { watching = before_; }
  Unwatched(const Unwatched&) = delete;

 private:
  bool before_;
};

inline uint8_t* bytes_at(uintptr_t address) { return reinterpret_cast<uint8_t*>(address); }

inline bool has(uint16_t mask, size_t k) { return mask >> k & 1; }

inline void exchange(std::unordered_map<uintptr_t, Bytes>& entries) {
  for (auto& [address, bytes] : entries) {
    for (size_t k = 0; k < kGranule; ++k) {
      if (has(bytes.mask, k)) std::swap(bytes.data[k], bytes_at(address)[k]);
    }
  }
}

// From now on memory holds what `view` sees; null: what all see.
inline void show(View* view) {
  if (memory.shown == view) return;
  for (View* changed : {memory.shown, view}) {
    if (!changed) continue;
    exchange(changed->stores);
    exchange(changed->stale);
  }
  memory.shown = view;
}

inline Bytes* find(std::unordered_map<uintptr_t, Bytes>& entries, uintptr_t address) {
  const auto found = entries.find(address);
  return found == entries.end() ? nullptr : &found->second;
}

// The byte as all see it.
inline uint8_t& truth(uintptr_t address, size_t k) {
  if (memory.shown) {
    for (auto* entries : {&memory.shown->stores, &memory.shown->stale}) {
      Bytes* bytes = find(*entries, address);
      if (bytes && has(bytes->mask, k)) return bytes->data[k];
    }
  }
  return bytes_at(address)[k];
}

// All see bytes `mask` changed; blocks that have copied them do not.
inline void changed(uintptr_t address, uint16_t mask, const uint8_t* before, const View* writer) {
  Line& line = memory.lines[address];
  line.changed = ++memory.now;
  line.writer = writer;
  line.before.mask = mask;
  std::memcpy(line.before.data, before, kGranule);
  for (const Reader& reader : line.readers) {
    if (reader.view == writer || reader.copied < reader.view->acquired) continue;
    const Bytes* stored = find(reader.view->stores, address);
    const bool shown = reader.view == memory.shown;
    for (size_t k = 0; k < kGranule; ++k) {
      if (!has(mask & reader.mask, k) || (stored && has(stored->mask, k))) continue;
      Bytes& stale = reader.view->stale[address];
      if (has(stale.mask, k)) continue;
      stale.data[k] = shown ? bytes_at(address)[k] : before[k];
      stale.mask |= 1u << k;
      if (shown) bytes_at(address)[k] = before[k];
    }
  }
}

// Bytes `mask` of a store that waits become what all see.
inline void flush(View& view, uintptr_t address, uint16_t mask) {
  const auto entry = view.stores.find(address);
  const Bytes stored = entry->second;
  const bool shown = &view == memory.shown;
  uint8_t before[kGranule] = {};
  entry->second.mask &= ~mask;
  if (!entry->second.mask) view.stores.erase(entry);
  for (size_t k = 0; k < kGranule; ++k) {
    if (!has(mask, k)) continue;
    before[k] = shown ? stored.data[k] : truth(address, k);
    if (!shown) truth(address, k) = stored.data[k];
  }
  changed(address, mask, before, &view);
}

inline void release_all(View& view) {
  while (!view.stores.empty()) {
    const auto& [address, stored] = *view.stores.begin();
    flush(view, address, stored.mask);
  }
  view.waiting.clear();
}

inline void acquire_all(View& view) {
  if (&view == memory.shown) exchange(view.stale);
  view.stale.clear();
  view.acquired = ++memory.now;
}

// Some store that waits, or a part of it, has waited long enough.
inline void drift(View& view) {
  while (!view.waiting.empty()) {
    uintptr_t& some = view.waiting[memory.random() % view.waiting.size()];
    const Bytes* stored = find(view.stores, some);
    if (stored) {
      uint16_t units[kGranule], count = 0;
      for (size_t k = 0; k < kGranule; k += stored->unit) {
        const uint16_t unit = stored->mask & (((1u << stored->unit) - 1) << k);
        if (unit) units[count++] = unit;
      }
      flush(view, some, units[memory.random() % count]);
      return;
    }
    some = view.waiting.back();
    view.waiting.pop_back();
  }
}

// Whether a load of `view` may still return what `line` held before.
inline bool may_lag(const Line& line, const View& view, const Reader& reader) {
  return line.changed > view.acquired && line.writer != &view && reader.seen < line.changed;
}

inline Reader& reader_of(Line& line, View& view) {
  for (Reader& reader : line.readers) {
    if (reader.view == &view) return reader;
  }
  line.readers.push_back({&view});
  return line.readers.back();
}

// Calls on(address of a granule, mask) for what an access touches.
template <class F>
void for_granules(uintptr_t address, size_t size, const F& on) {
  while (size) {
    const size_t offset = address % kGranule, part = std::min(size, kGranule - offset);
    on(address - offset, static_cast<uint16_t>(((1u << part) - 1) << offset));
    address += part;
    size -= part;
  }
}

// Before the running block stores there.
inline void on_store(View& view, uintptr_t address, size_t size) {
  for_granules(address, size, [&](uintptr_t granule, uint16_t mask) {
    Bytes& stored = view.stores[granule];
    if (!stored.mask) view.waiting.push_back(granule);
    Bytes* stale = find(view.stale, granule);
    for (size_t k = 0; k < kGranule; ++k) {
      if (!has(mask & ~stored.mask, k)) continue;
      const bool is_stale = stale && has(stale->mask, k);
      stored.data[k] = is_stale ? stale->data[k] : bytes_at(granule)[k];
      if (is_stale) stale->mask &= ~(1u << k);
    }
    stored.mask |= mask;
    if (size <= kGranule && size > stored.unit) stored.unit = static_cast<uint8_t>(size);
  });
}

// Before the running block loads from there, through L1.
inline void on_load(View& view, uintptr_t address, size_t size) {
  for_granules(address, size, [&](uintptr_t granule, uint16_t mask) {
    Line& line = memory.lines[granule];
    Reader& reader = reader_of(line, view);
    if (reader.copied < view.acquired) reader.mask = 0;
    if (!(mask & ~reader.mask)) return;
    if (may_lag(line, view, reader) && memory.one_in(4)) {
      const Bytes* stored = find(view.stores, granule);
      Bytes& stale = view.stale[granule];
      uint16_t lagging = mask & ~reader.mask & line.before.mask & ~stale.mask;
      if (stored) lagging &= ~stored->mask;
      for (size_t k = 0; k < kGranule; ++k) {
        if (!has(lagging, k)) continue;
        stale.data[k] = bytes_at(granule)[k];
        bytes_at(granule)[k] = line.before.data[k];
      }
      stale.mask |= lagging;
    } else {
      reader.seen = memory.now;
    }
    reader.copied = memory.now;
    reader.mask |= mask;
  });
}

// A load of the running block that passes L1 by: its own stores, else what all see, now or a change ago.
inline void load_past_l1(View& view, void* to, const void* from, size_t size) {
  auto* out = static_cast<uint8_t*>(to);
  for_granules(reinterpret_cast<uintptr_t>(from), size, [&](uintptr_t granule, uint16_t mask) {
    Line& line = memory.lines[granule];
    Reader& reader = reader_of(line, view);
    const bool lags = may_lag(line, view, reader) && memory.one_in(4);
    if (!lags) reader.seen = memory.now;
    const Bytes* stored = find(view.stores, granule);
    for (size_t k = 0; k < kGranule; ++k) {
      if (!has(mask, k)) continue;
      const bool own = stored && has(stored->mask, k);
      *out++ = own ? bytes_at(granule)[k] : lags && has(line.before.mask, k) ? line.before.data[k] : truth(granule, k);
    }
  });
}

// Whether what all see there has been changed by a store that no fence.proxy.async of `view` is behind.
inline bool changed_since_fence(const View& view, const void* from, size_t size) {
  bool found = false;
  for_granules(reinterpret_cast<uintptr_t>(from), size, [&](uintptr_t granule, uint16_t) {
    const auto line = memory.lines.find(granule);
    found |= line != memory.lines.end() && line->second.changed > view.fenced;
  });
  return found;
}

// Around an atomic of the running block, which acts on what all see: no store of its own to the same place waits, and
// no copy hides it.
class Atomic {
 public:
  Atomic(View& view, const void* address, size_t size) : view_(view), granule_(0), mask_(0) {
    for_granules(reinterpret_cast<uintptr_t>(address), size, [&](uintptr_t granule, uint16_t mask) {
      granule_ = granule;  // aligned: there is but one
      mask_ = mask;
    });
    if (const Bytes* stored = find(view.stores, granule_)) flush(view, granule_, stored->mask);
    const auto stale = view.stale.find(granule_);
    if (stale != view.stale.end()) {
      for (size_t k = 0; k < kGranule; ++k) {
        if (has(stale->second.mask, k)) bytes_at(granule_)[k] = stale->second.data[k];
      }
      view.stale.erase(stale);
    }
    std::memcpy(before_, bytes_at(granule_), kGranule);
  }
  ~Atomic() {
    if (std::memcmp(before_, bytes_at(granule_), kGranule)) changed(granule_, mask_, before_, &view_);
    reader_of(memory.lines[granule_], view_).seen = memory.now;
  }
  Atomic(const Atomic&) = delete;

 private:
  View& view_;
  uintptr_t granule_;
  uint16_t mask_;
  uint8_t before_[kGranule];
};

}  // namespace emu::weak
