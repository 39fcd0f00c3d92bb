"""Adam as torch has it, without first importing torch's compiler.

The methods of torch's optimizers that a compiler must not look into import the whole of it at their first call, which
takes longer than some stages do. Nothing is compiled here, so these are the same methods without that wrapping: the
same updates, bit for bit.
"""

from inspect import unwrap
from typing import Any

import torch


class Adam(torch.optim.Adam):
    """Kingma and Ba's (2015); with `decoupled_weight_decay` AdamW, Loshchilov and Hutter's (2019)."""

    step: Any = torch.no_grad()(unwrap(torch.optim.Adam.step))
    zero_grad: Any = unwrap(torch.optim.Adam.zero_grad)
    add_param_group: Any = unwrap(torch.optim.Adam.add_param_group)
    state_dict: Any = unwrap(torch.optim.Adam.state_dict)
    load_state_dict: Any = unwrap(torch.optim.Adam.load_state_dict)
