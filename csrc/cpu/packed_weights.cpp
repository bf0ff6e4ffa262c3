#include "cpu/packed_weights.h"

#include <cstring>

#include "cpu/buffer.h"
#include "cpu/forward_panels.h"
#include "cpu/layer_weights.h"
#include "cpu/types_of.h"

namespace rnndrop::cpu {

int64_t packed_bytes(Dtype dtype, int64_t H, int64_t K) {
  return in_types_of(dtype, [&]<class S, class T>(Types<S, T>) -> int64_t {
    return kGates * round_up(H, ForwardPanels<S, T>::units_at_once()) * padded<T>(K) * sizeof(T);
  });
}

void pack_weight(void* panels, Dtype dtype, const void* W, int64_t H, int64_t K) {
  const int64_t bytes = packed_bytes(dtype, H, K);
  prefer_huge_pages(panels, bytes);
  in_types_of(dtype, [&]<class S, class T>(Types<S, T>) {
    const KeptRows rows(H);
    const Weight<S, T> weight(W, {}, rows, K);
    PanelMemory<T> memory{Packing::before, {}};
    memory.before.emplace_back(ForwardPanels<S, T>::storage_for(weight, weight.groups[0], /*threads=*/1));
    ForwardPanels<S, T>(weight, memory, {0, H}, /*rank=*/0, {}, PanelOrder::units).pack(Team{0, 1});
    std::memcpy(panels, memory.before[0].data(), bytes);
  });
}

}  // namespace rnndrop::cpu
