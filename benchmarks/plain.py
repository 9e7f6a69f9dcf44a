"""The networks and the step of the suite as one would write them down first: eager, float32,
nothing shared or saved.

Used by `benchmarks/training.py` to measure against; `copy_weights` lets both start from the same
numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import IGNORE, PAD
from s3e.config import Config
from s3e.data.corpus import Batch
from s3e.models.semantics import S3EDeblur


class PlainGenerator(nn.Module):
    """DeblurGAN's generator; with `maps` channels, node maps are embedded before its first
    block.
    """

    def __init__(self, width: int, blocks: int, dropout: float, maps: int = 0):
        super().__init__()
        wide = 4 * width
        self.first = nn.Conv2d(3, width, 7)
        self.down1 = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.down2 = nn.Conv2d(2 * width, wide, 3, 2, 1)
        self.convolutions = nn.ModuleList(nn.Conv2d(wide, wide, 3) for _ in range(2 * blocks))
        self.up1 = nn.ConvTranspose2d(wide, 2 * width, 3, 2, 1, output_padding=1)
        self.up2 = nn.ConvTranspose2d(2 * width, width, 3, 2, 1, output_padding=1)
        self.last = nn.Conv2d(width, 3, 7)
        if maps:
            self.project = nn.Conv2d(maps, wide, 1)
            self.mix = nn.Conv2d(2 * wide, wide, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, blurred: Tensor, maps: Tensor | None = None) -> Tensor:
        x = F.relu(F.instance_norm(self.first(F.pad(blurred, (3, 3, 3, 3), "reflect"))))
        x = F.relu(F.instance_norm(self.down1(x)))
        x = F.relu(F.instance_norm(self.down2(x)))
        if maps is not None:
            maps = F.interpolate(
                self.project(maps), x.shape[2:], mode="bilinear", align_corners=False
            )
            x = x + self.mix(torch.cat([x, maps], 1))
        for one, two in zip(self.convolutions[::2], self.convolutions[1::2], strict=True):
            y = F.relu(F.instance_norm(one(F.pad(x, (1, 1, 1, 1), "reflect"))))
            x = x + F.instance_norm(two(F.pad(self.dropout(y), (1, 1, 1, 1), "reflect")))
        x = F.relu(F.instance_norm(self.up1(x)))
        x = F.relu(F.instance_norm(self.up2(x)))
        x = torch.tanh(self.last(F.pad(x, (3, 3, 3, 3), "reflect")))
        return torch.clamp(blurred + x, -1, 1)


class PlainCritic(nn.Module):
    """The PatchGAN critic."""

    def __init__(self, width: int):
        super().__init__()
        sizes = [3, width, 2 * width, 4 * width, 8 * width, 1]
        strides = [2, 2, 2, 1, 1]
        layers = zip(sizes[:-1], sizes[1:], strides, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 4, stride, 2) for a, b, stride in layers)

    def forward(self, image: Tensor) -> Tensor:
        x = F.leaky_relu(self.convolutions[0](image), 0.2)
        for convolution in self.convolutions[1:-1]:
            x = F.leaky_relu(F.instance_norm(convolution(x)), 0.2)
        return self.convolutions[-1](x)


class PlainSemantics(nn.Module):
    """Encoder, S3-tree and (`speak`) caption decoder, word by word.

    Returns node maps, node logits, and what the decoder starts from and attends to.
    """

    def __init__(self, model: S3EDeblur):
        super().__init__()
        theirs = model.semantics

        def block(layer: nn.Sequential) -> nn.Sequential:
            conv, norm = layer[0], layer[1]
            plain = nn.Conv2d(
                conv.in_channels,
                conv.out_channels,
                3,
                conv.stride,
                conv.padding,
                conv.dilation,
                bias=False,
            )
            return nn.Sequential(plain, nn.BatchNorm2d(norm.num_features), nn.ReLU())

        def linear(layer: nn.Linear) -> nn.Linear:
            return nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)

        tree, decoder = theirs.tree, theirs.decoder
        self.stages = nn.ModuleList(block(stage) for stage in theirs.encoder.stages)
        self.leaves = nn.ModuleList(block(leaf) for leaf in tree.leaves)
        self.sub, self.root = block(tree.sub_relations[0]), block(tree.root)
        width = tree.width
        self.hidden, self.score = (
            nn.Conv2d(width, width, 1, bias=False),
            nn.Conv2d(width, 1, 1, bias=False),
        )
        self.entity, self.relation = linear(tree.classify.entity), linear(tree.classify.relation)
        self.place_key = nn.Parameter(torch.empty_like(decoder.place_key))
        self.embedding = nn.Embedding(*decoder.embedding.weight.shape, padding_idx=PAD)
        self.start, self.output = linear(decoder.start), linear(decoder.output)
        self.lstm = nn.LSTMCell(decoder.lstm.input_size, decoder.lstm.hidden_size)
        self.item_key, self.query = linear(decoder.item_key), linear(decoder.query)
        self.attend = linear(decoder.score)
        self.dropout = nn.Dropout(decoder.dropout.p)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        x = image
        for stage in self.stages:
            x = stage(x)
        nodes = [leaf(x) for leaf in self.leaves]
        nodes += [self.sub(torch.cat(nodes[:2], 1)), self.sub(torch.cat(nodes[2:4], 1))]
        nodes.append(self.root(torch.cat(nodes[4:6], 1)))
        vectors = []
        for node in nodes:
            weights = self.score(torch.tanh(self.hidden(node))).flatten(1).softmax(1)
            vectors.append((node.flatten(2) * weights[:, None]).sum(2))
        vectors = torch.stack(vectors, 1)
        context = torch.cat([vectors[:, -1], x.mean((2, 3))], 1)
        return (
            torch.cat(nodes, 1),
            self.entity(vectors[:, :4]),
            self.relation(vectors[:, 4:]),
            context,
            vectors,
        )

    def speak(self, words: Tensor, context: Tensor, items: Tensor) -> Tensor:
        hidden, cell = torch.tanh(self.start(context)).chunk(2, 1)
        logits = []
        for t in range(int((words != PAD).sum(1).max()) - 1):
            keys = self.item_key(items) + self.place_key
            scores = self.attend(torch.tanh(keys + self.query(hidden)[:, None])).squeeze(2)
            glimpse = (scores.softmax(1)[:, :, None] * items).sum(1)
            word = self.dropout(self.embedding(words[:, t]))
            hidden, cell = self.lstm(torch.cat([word, glimpse], 1), (hidden, cell))
            logits.append(self.output(self.dropout(torch.cat([hidden, glimpse], 1))))
        return torch.stack(logits, 1)


def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy parameters, matched by order and shape; raises ValueError where they differ."""
    theirs, ours = list(source.parameters()), list(target.parameters())
    if [tuple(a.shape) for a in theirs] != [tuple(b.shape) for b in ours]:
        raise ValueError(
            f"{type(target).__name__}: the plain network has other shapes than the suite's"
        )
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)


def copy_generator(target: PlainGenerator, source: nn.Module) -> None:
    """The suite's generator into the plain one."""
    names = {
        "first": "encoder.1",
        "down1": "encoder.4",
        "down2": "encoder.7",
        "up1": "decoder.0",
        "up2": "decoder.3",
    }
    names |= {"last": "decoder.7", "project": "embed.0.project", "mix": "embed.0.mix"}
    for number in range(len(target.convolutions)):
        names[f"convolutions.{number}"] = f"trunk.{number // 2}.body.{1 if number % 2 == 0 else 6}"
    state = source.state_dict()
    target.load_state_dict(
        {
            f"{a}.{k}": state[f"{b}.{k}"]
            for a, b in names.items()
            for k in ("weight", "bias")
            if f"{b}.{k}" in state
        }
    )


def copy_semantics(target: PlainSemantics, source: nn.Module) -> None:
    """The suite's encoder, tree and decoder into the plain ones."""
    tree, decoder, pool = source.tree, source.decoder, source.tree.pool.score
    pairs = [
        (target.stages, source.encoder.stages),
        (target.leaves, tree.leaves),
        (target.sub, tree.sub_relations[0]),
    ]
    pairs += [(target.root, tree.root), (target.hidden, pool[0]), (target.score, pool[2])]
    pairs += [(target.entity, tree.classify.entity), (target.relation, tree.classify.relation)]
    names = ("embedding", "start", "output", "lstm", "item_key", "query")
    pairs += [(getattr(target, name), getattr(decoder, name)) for name in names] + [
        (target.attend, decoder.score)
    ]
    for ours, theirs in pairs:
        ours.load_state_dict(theirs.state_dict())
    target.place_key.data.copy_(decoder.place_key)


class PlainTraining:
    """One step after the other, with losses read out after each, as a first training script has
    it.
    """

    def __init__(self, config: Config, model: S3EDeblur, critic: nn.Module):
        sizes, rate = config.model, config.train_c.learning_rate
        maps = 7 * sizes.node_width if model.semantics is not None else 0
        self.config = config
        self.generator = PlainGenerator(sizes.generator_width, sizes.blocks, sizes.dropout, maps)
        copy_generator(self.generator, model.generator)
        self.critic = PlainCritic(sizes.critic_width)
        copy_weights(self.critic, critic)
        self.semantics = None if model.semantics is None else PlainSemantics(model)
        if self.semantics is not None:
            copy_semantics(self.semantics, model.semantics)
        device = config.runtime.device
        networks = [
            network.to(device)
            for network in (self.generator, self.semantics)
            if network is not None
        ]
        self.critic.to(device)
        parameters = [parameter for network in networks for parameter in network.parameters()]
        self.optimizer = torch.optim.Adam(parameters, rate, (0.5, 0.999))
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), rate, (0.5, 0.999))

    def restore(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        if self.semantics is None:
            return self.generator(batch.blurred), None
        read = self.semantics(batch.blurred)
        return self.generator(batch.blurred, read[0]), read

    def criticise(self, batch: Batch, restored: Tensor) -> float:
        restored = restored.detach()
        if self.config.loss.gan == "lsgan":
            real, fake = self.critic(batch.sharp), self.critic(restored)
            loss = ((real - 1).square().mean() + fake.square().mean()) / 2
        else:
            share = torch.rand(len(restored), 1, 1, 1, device=restored.device)
            mixed = (share * batch.sharp + (1 - share) * restored).requires_grad_(True)
            (slope,) = torch.autograd.grad(self.critic(mixed).sum(), mixed, create_graph=True)
            penalty = (slope.flatten(1).norm(2, 1) - 1).square().mean()
            loss = self.critic(restored).mean() - self.critic(batch.sharp).mean()
            loss = loss + self.config.loss.gradient_penalty * penalty
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return loss.item()

    def losses(
        self, batch: Batch, restored: Tensor, read: tuple[Tensor, ...] | None
    ) -> list[Tensor]:
        weights, score = self.config.loss, self.critic(restored)
        adversarial = -score.mean() if weights.gan == "wgan-gp" else (score - 1).square().mean()
        found = [
            weights.pixel * (restored - batch.sharp).abs().mean(),
            weights.adversarial * adversarial,
        ]
        if read is None:
            return found
        _, entity, relation, context, vectors = read
        said = self.semantics.speak(batch.words, context, vectors)
        tree, norm = 0.0, 0.0
        for logits, labels in ((entity, batch.tree[:, :4]), (relation, batch.tree[:, 4:])):
            loss = F.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="none"
            )
            weight = (labels != IGNORE).flatten() * torch.where(
                labels.flatten() == 0, weights.null_weight, 1.0
            )
            tree, norm = tree + (weight * loss).sum(), norm + weight.sum()
        target = batch.words[:, 1 : said.shape[1] + 1]
        caption = F.cross_entropy(said.flatten(0, 1), target.flatten(), ignore_index=PAD)
        return [*found, weights.tree * tree / norm, weights.caption * caption]

    def update(self, batch: Batch, others: list[Batch]) -> list[float]:
        """One generator step with the critic's before it; `others`: batches of the extra critic
        steps.
        """
        for other in others:
            with torch.no_grad():
                restored, _ = self.restore(other)
            self.criticise(other, restored)
        restored, read = self.restore(batch)
        critic = self.criticise(batch, restored)
        losses = self.losses(batch, restored, read)
        self.optimizer.zero_grad()
        sum(losses).backward()
        self.optimizer.step()
        return [critic, *(loss.item() for loss in losses)]
