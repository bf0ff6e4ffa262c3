// Streams whose work comes late: what is launched waits in its stream's queue until somebody has to have it.
//
// ATen's operations on elements cannot wait, so the stream that is current when one begins does first what it has (and
// what its events ask of other streams): the caller's stream is late between them, a side stream up to the event that
// is waited for; under "rand<seed>" whatever may run next also does so now and then. Memory that is freed is filled
// with NaN when the stream that it was allocated on comes to it, as torch's allocator may give it away from there on.
// While a capture is on, as cudaStreamCapture has it: no wait of the host, no work on a stream that was not forked from
// the captured one, and every fork is joined again before the end.
#pragma once

#include <ATen/record_function.h>
#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace late {

constexpr int kStreams = 2;  // the caller's, and the side stream

// Up to here a stream has come, or shall come.
struct Mark {
  int stream = 0;
  size_t position = 0;
};

struct Entry {
  std::function<void()> work;  // empty where the entry waits for a mark
  Mark mark;
};

struct Stream {
  std::vector<Entry> queue;
  size_t done = 0;
  size_t joined = 0;      // by the caller's stream, while a capture is on
  bool captured = false;  // forked from the caller's stream, while a capture is on
};

inline std::array<Stream, kStreams> streams;
inline int current = 0;
inline bool on = false, capturing = false, at_random = false;
inline bool dropping = false;  // nothing that is launched is done: only the host's time is wanted
inline std::mt19937 dice;
inline int waits = 0, forgotten_wait = -1;  // plants a mistake: the wait of this number is left out
inline std::vector<void*> freed;            // poisoned, and kept for work that comes later than it should

inline int number_of(cudaStream_t stream) { return static_cast<int>(reinterpret_cast<intptr_t>(stream)); }
inline cudaStream_t stream_of(int number) { return reinterpret_cast<cudaStream_t>(static_cast<intptr_t>(number)); }

inline void run_to(Mark mark) {
  Stream& stream = streams[mark.stream];
  while (stream.done < mark.position) {
    const Entry entry = stream.queue[stream.done++];
    entry.work ? entry.work() : run_to(entry.mark);
  }
}
inline void run_all_of(int stream) { run_to({stream, streams[stream].queue.size()}); }

inline void run_some() {
  while (at_random && dice() % 2) {
    const int stream = static_cast<int>(dice() % kStreams);
    if (streams[stream].done < streams[stream].queue.size()) run_to({stream, streams[stream].done + 1});
  }
}

inline void enqueue(int stream, std::function<void()> work) {
  if (dropping) return;
  if (!on) return work();
  TORCH_CHECK(!capturing || stream == 0 || streams[stream].captured,
              "late streams: work on a stream that is not part of the capture");
  streams[stream].queue.push_back({std::move(work), {}});
  run_some();
}

inline Mark mark_of(int stream) { return {stream, streams[stream].queue.size()}; }

inline void wait(int stream, Mark mark) {
  if (!on || waits++ == forgotten_wait) return;
  streams[stream].queue.push_back({{}, mark});
  if (mark.stream == 0) streams[stream].captured = true;
  if (stream == 0) streams[mark.stream].joined = std::max(streams[mark.stream].joined, mark.position);
}

// What cudaStreamSynchronize and its like would do.
inline void host_waits() {
  TORCH_CHECK(!capturing, "late streams: the host waits while a graph is captured");
  for (int stream = 0; stream < kStreams; ++stream) run_all_of(stream);
}

// ---------------------------------------------------------------- memory

struct Block {
  size_t bytes;
  int stream;
};
inline std::map<void*, Block> blocks;

// Another stream uses it, too, and has by then come to wait for all that its own has: it is given away behind that.
inline void used_on(const void* memory, int stream) {
  const auto found = blocks.find(const_cast<void*>(memory));
  if (found != blocks.end()) found->second.stream = stream;
}

inline void free_late(void* memory) {
  const auto found = blocks.find(memory);
  if (found == blocks.end()) return;
  const Block block = found->second;
  blocks.erase(found);
  const auto poison = [memory, block] { std::memset(memory, 0xff, block.bytes); };
  freed.push_back(memory);
  if (!on) return poison();
  Stream& stream = streams[block.stream];
  if (stream.joined == stream.queue.size()) ++stream.joined;  // nobody need wait for this
  stream.queue.push_back({poison, {}});
}

struct LateAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    constexpr size_t kAlignment = 64;
    void* memory = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
    std::memset(memory, 0xff, bytes);
    blocks[memory] = {bytes, current};
    return {memory, memory, &free_late, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_late; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};

inline LateAllocator allocator;
inline c10::Allocator* allocator_before = nullptr;
inline at::CallbackHandle before_aten = 0;

// Whether an operation of this name reads or writes elements.
inline bool computes(const std::string& name) {
  static const std::set<std::string> kOnlyShapes = {
      "aten::alias",  "aten::as_strided", "aten::detach",    "aten::empty",   "aten::empty_like", "aten::expand",
      "aten::narrow", "aten::select",     "aten::slice",     "aten::t",       "aten::transpose",  "aten::unsqueeze",
      "aten::view",   "aten::flatten",    "aten::unflatten", "aten::reshape",
  };
  return name.rfind("aten::", 0) == 0 && !kOnlyShapes.count(name);
}

// ---------------------------------------------------------------- for a test: on, then off

// "late", or "rand<seed>"
inline void begin(const std::string& order, bool capture, int64_t forget) {
  streams = {};
  waits = 0;
  forgotten_wait = static_cast<int>(forget);
  at_random = order != "late";
  dice.seed(at_random ? std::stoul(order.substr(4)) : 0);
  capturing = capture;
  allocator_before = c10::GetAllocator(c10::kCPU);
  c10::SetAllocator(c10::kCPU, &allocator, /*priority=*/255);
  before_aten = at::addThreadLocalCallback(
      at::RecordFunctionCallback([](const at::RecordFunction& function) -> std::unique_ptr<at::ObserverContext> {
        if (computes(function.name())) run_all_of(current);
        return nullptr;
      }).scopes({at::RecordScope::FUNCTION}));
  on = true;
}

inline void end() {
  const bool was_capturing = capturing;
  capturing = false;
  at::removeCallback(before_aten);
  c10::SetAllocator(c10::kCPU, allocator_before, /*priority=*/255);
  const Stream& side = streams[1];
  const bool joined = side.joined >= side.queue.size() || !side.captured;
  host_waits();
  on = false;
  for (void* memory : freed) std::free(memory);
  freed.clear();
  TORCH_CHECK(!was_capturing || joined, "late streams: a stream that was forked is not joined at the capture's end");
}

}  // namespace late
