"""What predictors of pixels share: every image at its full size, with the size beside its pack."""

from collections.abc import Iterator, Sequence

from patchpack.batch import PackedBatch
from patchpack.data.images import Pixels
from patchpack.data.pack import AnyImage, check_list, to_pixels
from patchpack.inference.predictor import Predictor, Unreadable, skip_unreadable

Size = tuple[int, int]  # (height, width) in pixels of the image file


class DensePredictor(Predictor):
    """A model whose predictions are in pixels of the image: masks, boxes, maps."""

    full_size_decode = True

    def sized_packs(
        self, images: Sequence[AnyImage], max_tokens: int | None, unreadable: Unreadable = None
    ) -> Iterator[tuple[PackedBatch, list[Size]]]:
        """Packs, each with the sizes of its images, in the order given.

        Raises BadImage for a file that cannot be read, unless `unreadable` collects it.
        """
        check_list(images)
        sizes: list[Size] = []

        def prepare(image: AnyImage, key: str) -> Pixels:
            return to_pixels(image, key, self.spec.reading)

        def pixels() -> Iterator[Pixels]:
            for image in skip_unreadable(prepare, images, unreadable):
                sizes.append(image.shape[:2])
                yield image

        begin = 0
        for batch in self.packs(pixels(), max_tokens):  # pyrefly: ignore
            end = begin + batch.num_images
            yield batch, sizes[begin:end]
            begin = end
