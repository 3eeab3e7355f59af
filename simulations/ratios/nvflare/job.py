"""FedAvg in NVFlare's simulator: ``python job.py SITES ROUNDS NUMBERS WORKERS FOLDER``, in an environment with it."""

import sys
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.sim_env import SimEnv

sites, rounds, size, workers = map(int, sys.argv[1:5])
folder = Path(sys.argv[5])
start = folder / "start.npy"
np.save(start, np.zeros(size, np.float32))
recipe = NumpyFedAvgRecipe(
    name="trivial",
    initial_ckpt=str(start),
    min_clients=sites,
    num_rounds=rounds,
    train_script=str(Path(__file__).with_name("client.py")),
)
recipe.execute(SimEnv(num_clients=sites, num_threads=workers, workspace_root=str(folder / "work")))
