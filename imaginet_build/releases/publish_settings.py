"""What a recipe asks of a release: the `[publish]` table, and under `[publish.about]` what no program can count."""

from __future__ import annotations

import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


Words = Annotated[str, Field(min_length=1)] | None


class Statements(_Table):
    """What the card, the datasheet and `croissant.json` say in the publisher's words. What is not stated here is said not to be
    stated; nothing is made up for it. The datasheet's questions are those of Gebru et al., "Datasheets for Datasets",
    arXiv:1803.09010."""

    description: Words = Field(default=None, description="the first paragraph of the card")
    contact: Words = Field(default=None, description="where to ask for an image to be taken down")
    citation: Words = Field(default=None, description="how to cite the release, BibTeX")
    purpose: Words = Field(default=None, description="for what purpose the data set was created, which gap it fills")
    creators: Words = Field(default=None, description="who created it, on behalf of whom")
    funding: Words = Field(default=None, description="who paid for it")
    people: Words = Field(default=None, description="what is known of the people shown, and of groups it identifies")
    sensitive: Words = Field(default=None, description="whether images or texts may offend, or tell something private")
    collectors: Words = Field(default=None, description="who took part in collecting, and how they were paid")
    timeframe: Words = Field(default=None, description="when the photographs were taken and the images were drawn")
    consent: Words = Field(default=None, description="whether those shown were told, agreed, and how they take it back")
    review: Words = Field(default=None, description="ethical review and analysis of impact")
    used: Words = Field(default=None, description="what it has been used for, with links")
    uses: Words = Field(default=None, description="what it could be used for")
    misuse: Words = Field(default=None, description="what it should not be used for")
    distribution: Words = Field(default=None, description="to whom and when it is distributed; DOI; export controls")
    maintainer: Words = Field(default=None, description="who keeps it, and how to reach them")
    updates: Words = Field(default=None, description="how often and by whom it is updated, and how that is told")
    retention: Words = Field(default=None, description="for how long data that relates to people may be kept")
    published: datetime.date | None = Field(default=None, description="the date of publication; croissant.json asks for it")
    old_versions: Words = Field(default=None, description="whether older versions stay available")
    contributions: Words = Field(default=None, description="how others can add to it")

    def said(self) -> dict[str, Any]:
        """What is stated, as keyword arguments of `datasetcard.About`."""
        stated = self.model_dump(mode="json", exclude_none=True)
        card = {key: stated.pop(key) for key in ("description", "contact", "citation") if key in stated}
        return card | {"statements": stated}


class Publish(_Table):
    """The release."""

    title: str | None = None
    views: list[Literal["equalized", "native"]] = Field(default=["equalized", "native"], min_length=1)
    rows_per_file: Annotated[int, Field(ge=1)] = 10_000
    robustness: Literal["none", "social", "all"] = Field(
        default="none", description="the frozen robustness test set: the paper's social network, or every condition"
    )
    social_images: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="test images at most that come under the social network; all without it"
    )
    sweep_images: Annotated[int, Field(ge=2)] = Field(
        default=1000, description="test images at most that come under each other condition of the robustness set"
    )
    only: Literal["redistributable", "commercial"] | None = Field(
        default=None, description="hold nothing but what may be passed on, or what may be used commercially as well"
    )
    withhold: Literal["nothing", "forbidden", "unknown"] | None = Field(
        default=None, description="whose pixels a release holds back (nobody's in the work folder, the forbidden elsewhere)"
    )
    repo: str | None = Field(default=None, description="where `publish` pushes when it is asked to; never by itself")
    about: Statements = Field(default_factory=Statements)
