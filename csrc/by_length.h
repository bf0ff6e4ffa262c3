// Batches of sequences of different lengths: packed ones, and the order in which the CPU's kernels leave out what has
// ended. They multiply the rows of a step from the first to the last that still runs (cpu/running_rows.h), so that a
// batch costs what it holds where the longest comes first.
#pragma once

#include "layer_stack.h"

namespace rnndrop {

struct StackSizes {
  int64_t T, I, H, P, layers, directions;
};

// The samples' order, int64 [B]; none where they have that order, or too little would be left out to pay for the
// copies of x and y. lengths: int64 [B], on the CPU.
OptionalTensor longest_first(const at::Tensor& lengths, const StackSizes& stack);

// As torch.nn.utils.rnn.PackedSequence has it.
struct PackedBatch {
  at::Tensor data, batch_sizes;
  OptionalTensor sorted_indices, unsorted_indices;

  int64_t T() const { return batch_sizes.size(0); }
  int64_t B() const { return batch_sizes.const_data_ptr<int64_t>()[0]; }
};

// Whether its tensors fit one another, and can be read.
bool is_consistent(const PackedBatch& packed);

// How samples came, where they do not run as they came.
struct SampleOrder {
  OptionalTensor order, back;  // from the caller's to theirs, and back
  OptionalTensor places;       // of a packed batch: each row's among the T * B
};

// Gives `in` x [T,B,I] and lengths of a consistent batch, longest first.
SampleOrder unpack(const PackedBatch& packed, StackInputs& in);

// Puts x and lengths in the order of longest_first.
SampleOrder sort_by_length(StackInputs& in);

// run_stack for x and lengths that have an order; hx, masks and what comes out are in the caller's.
StackResult run_stack(StackInputs& in, const SampleOrder& samples, bool differentiated, const PackedLayers* packed);

}  // namespace rnndrop
