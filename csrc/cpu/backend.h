// What the CPU's backend does beside the op: a layer with weights that were packed before the call.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Storage.h>

#include "lstm_layer.h"

namespace rnndrop::cpu {

// W_ih [4H,I] and W_hh [4H,H] of one layer in one direction, packed, and what tells whether they have changed since: a
// weight counts its changes in place, but for those by way of `.data`, of NumPy or of another process. What was packed
// is held, so that no other weight comes to lie where it lay.
class PackedLayer {
 public:
  // They are dense or not, of the same dtype, on the CPU, and no inference tensors, which count nothing.
  PackedLayer(const at::Tensor& W_ih, const at::Tensor& W_hh);
  // Whether the panels still are those of these weights.
  bool is_of(const at::Tensor& W_ih, const at::Tensor& W_hh) const { return ih_.is_of(W_ih) && hh_.is_of(W_hh); }

  // rnndrop::lstm_layer without masks, lengths and what a backward wants; below all dispatch. These weights are its
  // own.
  ForwardResult forward(const at::Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0,
                        const at::Tensor& W_ih, const at::Tensor& W_hh, const OptionalTensor& b_ih,
                        const OptionalTensor& b_hh, bool reverse) const;

 private:
  class Weight {
   public:
    explicit Weight(const at::Tensor& W);
    bool is_of(const at::Tensor& W) const {
      return W.unsafeGetTensorImpl() == impl_ && W.const_data_ptr() == data_ && W._version() == version_;
    }
    const void* panels() const { return panels_.const_data_ptr(); }

   private:
    const c10::TensorImpl* impl_;  // not held: torch swaps no tensor that others hold
    c10::Storage storage_;
    const void* data_;
    int64_t version_;
    at::Tensor panels_;
  };

  Weight ih_, hh_;
};

}  // namespace rnndrop::cpu
