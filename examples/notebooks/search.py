# %% [markdown]
# # Search for a budget
#
# A notebook as text: Jupyter with Jupytext, VS Code and PyCharm open it; Python runs it. It needs no data and no
# PyTorch.

# %%
import maenas

# %% [markdown]
# The detector with the highest score within a budget on a device, and the proof that no other of its space is better.

# %%
result = maenas.search("2.3ms", device="t4", space="k1kx-tiny", classes=20)
result  # noqa: B018

# %%
best = result.best
print(f"{best.params / 1e6:.2f} M parameters, {best.latency_ms:.2f} ms, proven: {result.proven}")

# %% [markdown]
# The same detector on other devices. Each latency says whether it was modelled or measured.

# %%
for device in ("t4", "a100", "orin-nano-super"):
    print(maenas.predict(best, device=device))

# %% [markdown]
# What the other budgets would give: the Pareto front of the space, exactly.

# %%
front = maenas.pareto("2.3ms", device="t4", space="k1kx-tiny", classes=20, neck="preset")
for point in front.points[:: max(1, len(front.points) // 5)]:
    print(f"{point.latency_s * 1e3:.3f} ms: score {point.score:.3f}")

# %% [markdown]
# The file that the trainer takes.

# %%
best.save("mine.json")
