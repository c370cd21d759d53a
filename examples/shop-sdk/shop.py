"""What the apps of the shop say to each other. The plain apps say the same in JSON, and have no such file."""

from typing import Annotated

from pydantic import BaseModel, Field

Quantity = Annotated[int, Field(ge=1, le=100)]
Text = Annotated[str, Field(min_length=1)]


class Wish(BaseModel):
    """What a customer wants to buy."""

    customer: Text
    item: Text
    quantity: Quantity


class Line(Wish):
    """What is ordered."""

    unit_cents: int = Field(ge=1, le=1_000_000)
    charge: Text


class Order(BaseModel):
    """What was ordered. Version 2 has more fields, which are passed over here."""

    id: Text
    state: str = "placed"
    customer: Text
    item: Text
    quantity: Quantity
    total_cents: int
    charge: Text


class Charge(BaseModel):
    id: str
    reference: str
    amount_cents: int
    state: str


class Sale(BaseModel):
    order: Order
    charge: Charge
