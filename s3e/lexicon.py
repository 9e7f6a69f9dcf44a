"""Word lists of the caption parser: closed classes, irregular forms, verbs, phrases. Hand-made (reconstruction).

Plain sets and dicts of lower-case words; `s3e.tagging` holds the rules. Words that no list knows are judged by their
ending and their neighbours, so the lists need only the frequent and the irregular ones.
"""

DETERMINERS = set(
    """
    a all an another any both each every few his its many most multiple my no our several some the their these
    this those various whose your
""".split()
)

POSSESSIVES = set(
    """
    ' 's her his its my our their whose your
""".split()
)

PRONOUNS = set(
    """
    anyone everyone everything he herself him himself i it itself nothing other others she somebody
    someone something them themselves there they us we what you
""".split()
)

RELATIVES = set(
    """
    that which who whom
""".split()
)

SUBORDINATORS = set(
    """
    after although as because before if since so than though until when where while whilst
""".split()
)

CONJUNCTIONS = set(
    """
    & and but nor or plus
""".split()
)

BE = set(
    """
    're am are aren't be been being is isn't was were
""".split()
)

HAVE = set(
    """
    had has have having
""".split()
)

MODALS = set(
    """
    can cannot could did do does doesn't don't may might must shall should to will would
""".split()
)

NUMBERS = set(
    """
    dozen eight eleven first five four half hundred nine one second seven six ten third thirteen three
    twelve twenty two
""".split()
)

ADVERBS = set(
    """
    again ahead airborne alike almost aloft alone also apart away back backward backwards both downhill
    downwards even fast forward forwards hard here high indoors inside just midway nearby not now only onstage
    outdoors outside overhead quite really somewhere still then there together too underwater upside upwards
    very well
""".split()
)

PREPOSITIONS = set(
    """
    aboard about above across against along alongside amid amidst among amongst around at atop behind below
    beneath beside between beyond by down during for from in inside into like near nearby of off on onto
    opposite out outside over past per round through throughout to toward towards under underneath up upon via
    with within without
""".split()
)

# Multi-word prepositions by label; "about to" is an auxiliary. The labels then go through `s3e.parsing.INVERSES`.
_BY_LABEL = {
    "about_to": "about to",
    "across_from": "across from",
    "along": "up and down",
    "and": "as well as",
    "at": "at the end of",
    "at_bottom_of": "at the base of, at the bottom of",
    "away_from": "away from",
    "because_of": "because of, due to",
    "behind": "at the back of, in back of",
    "below": "underneath of",
    "between": "in between",
    "in": "in the back of, in the center of, in the middle of, in the midst of, in to, inside of, on the inside of",
    "in_front_of": "ahead of, at the front of, in front of",
    "instead_of": "instead of",
    "left_of": "left from, leftward of",
    "like": "such as",
    "near": "at the edge of, by the edge of, close by, close to",
    "next_to": "adjacent to, along side, along side of, at the side of, by the side of, next to, on both sides of, "
    "on either side of, on the side of",
    "off": "off of",
    "on": "on board, on the back of, on the edge of, on the end of, on to",
    "on_top_of": "at the top of, atop of, on the top of, on top of",
    "out_of": "out of",
    "outside": "outside of",
    "right_of": "right from, rightward of",
    "to": "over to, up to",
    "toward": "in the direction of",
    "with": "along with, together with",
}
PHRASES = {phrase: label for label, phrases in _BY_LABEL.items() for phrase in phrases.split(", ")}
for _side in ("left", "right"):
    for _lead in ("", "to the ", "on the ", "at the ", "off to the ", "to ", "just ", "directly "):
        for _tail in ("of", "side of", "hand side of"):
            PHRASES[f"{_lead}{_side} {_tail}"] = f"{_side}_of"

# Nouns that only measure the noun after "of": "a group of people" is about people.
PARTITIVES = set(
    """
    array bit body bunch collection couple crowd flock group herd image kind line lot number pack pair part
    photo photograph picture piece pile row series set slice sort stack type variety view
""".split()
)

# Frequent compounds that become one entity, "tennis_racket".
COMPOUNDS = {
    tuple(pair.split("_"))
    for pair in """
    baseball_bat baseball_cap baseball_field baseball_game baseball_glove baseball_player basketball_court
    basketball_game basketball_player bath_tub bathing_suit beach_ball border_collie bus_stop cell_phone
    coffee_cup coffee_table computer_mouse cowboy_hat dining_room dining_table dirt_bike dirt_road fire_hydrant
    fire_truck football_field football_game football_player german_shepherd golden_retriever hockey_player
    hot_dog hula_hoop ice_cream ice_rink ice_skater jack_russell jungle_gym lawn_chair life_jacket living_room
    mountain_bike parking_lot parking_meter picnic_table police_car police_officer race_car race_track
    remote_control rock_wall roller_coaster rugby_player skate_board snow_board soccer_ball soccer_field
    soccer_game soccer_player stop_sign street_light street_sign surf_board swimming_pool swing_set teddy_bear
    tennis_ball tennis_court tennis_player tennis_racket tennis_racquet toilet_paper traffic_light train_station
    train_track tree_branch tree_trunk volleyball_player water_slide wet_suit wine_glass
""".split()
}

IRREGULAR_NOUNS = dict(
    pair.split(":")
    for pair in """
    aches:ache axes:axe axis:axis bases:base beanies:beanie birdies:birdie blouses:blouse bookcases:bookcase
    bruises:bruise buses:bus businessmen:businessman busses:bus caches:cache calves:calf canoes:canoe cases:case
    causes:cause cheeses:cheese children:child collies:collie cookies:cookie corpses:corpse courses:course
    dice:die doses:dose excuses:excuse feet:foot firemen:fireman fishermen:fisherman geese:goose
    gentlemen:gentleman greenhouses:greenhouse halves:half headaches:headache hoodies:hoodie hooves:hoof
    horses:horse horseshoes:horseshoe hoses:hose houses:house knives:knife ladies:lady leaves:leaf lens:lens
    licenses:license lighthouses:lighthouse loaves:loaf men:man mice:mouse mongooses:mongoose mooses:moose
    movies:movie mustaches:mustache noses:nose nurses:nurse oases:oasis oxen:ox people:people persons:person
    phrases:phrase pies:pie policemen:policeman poses:pose purses:purse races:race roses:rose scarves:scarf
    selfies:selfie shelves:shelf shoes:shoe skis:ski smoothies:smoothie snowmen:snowman staircases:staircase
    suitcases:suitcase teeth:tooth ties:tie toes:toe vases:vase wives:wife wolves:wolf women:woman
    zombies:zombie
""".split()
)

# Plural without a singular (or equal to it).
PLURAL_ONLY = set(
    """
    binoculars cattle clothes deer fish glasses goggles jeans leggings overalls pajamas pants people personnel
    police scissors sheep shorts sunglasses tights trousers
""".split()
)

SINGULAR_IN_S = set(
    """
    abs as bass bonus boss bus cactus campus canvas chess christmas circus class cross dress fitness focus gas
    glass goddess grass harness has hippopotamus hostess iris is kiss lens mattress mess moss news octopus
    pancreas pass princess santa's series species stylus tennis texas this virus waitress walrus was wilderness
""".split()
)

NOUNS_IN_ING = set(
    """
    anything awning bedding beijing bling building carving ceiling clothing dressing duckling earring evening
    fling flooring frosting icing king lighting lightning morning painting parasailing pudding railing rigging
    ring scaffolding seating sibling siding sling spring sterling string stuffing swing thing topping viking
    wedding wing
""".split()
)

NOUNS_IN_LY = set(
    """
    ally assembly belly bully butterfly dolly dragonfly family firefly fly gully holly jelly lily supply trolley
""".split()
)

NOUNS_IN_ED = set(
    """
    bed bobsled breed creed feed flatbed hundred moped need red reed seed shed sled speed steed thoroughbred
    toboggan tweed weed
""".split()
)

ADJECTIVES = set(
    """
    abandoned able adult aerial african aged alive amber american ancient angry asian asleep average back bald
    bare bare-chested barefoot barren bearded beautiful beige big bigger biggest black blond blonde blue bluish
    blurry bouncy bright broad brown brunette busy calm casual checked checkered cheerful chinese choppy chubby
    clean clear closed cloudy cold colonial colored colorful colourful concrete cooked cool covered cream
    crimson crisp crowded curly cute cyan dark dead decorated deep delicious different dirty distant dotted
    double dry dull dusty early elderly electric empty enormous excited fake fancy fat female fit flat fluffy
    foggy foreign formal free fresh front frozen full funny furry fuzzy gentle german giant gold golden good
    grassy gray grayish great green greenish grey haired hairy half happy hard hazy heavy high homeless
    horizontal hot huge icy indian indoor inflatable inner ivory japanese large larger largest late lavender
    leafy lean leather left light lit little lively lone long lovely low lower lush magenta main male maroon
    massive matching medium metal middle military military-style miniature modern muddy multicolored naked navy
    nearby neat new nice nude old older open orange oriental ornate other outdoor outdoors outer own pale parked
    patterned petite pink plaid plain plastic playful plump pretty professional public purple quaint quiet raw
    ready real rear red reddish right ripe rocky rough round rural rustic sad same sandy scarlet several shaggy
    shallow sharp shiny shirtless short silly silver similar single sizable sizeable skinny sleek sleepy slender
    sliced slim small smaller smallest smooth snowy soft spiky spotted square steep stone stony stout straight
    strange striped strong sturdy sunny tall tan teal teenage thick thin tiny tired top topless triple turquoise
    unlit unusual upper upside urban various vertical violet vivid warm wavy wee wet white whole wide wood
    wooded wooden woody yellow young younger
""".split()
)

COLOURS = set(
    """
    beige black blue brown camouflage gold gray green grey orange pink purple red silver tan white yellow
""".split()
)

# Adjectives that are nouns when nothing follows them: "an orange", "a young male".
NOUN_ADJECTIVES = set(
    """
    adult concrete cream female leather light male metal orange plastic side square stone violet wood
""".split()
)

# Verbs by lemma; regular forms are generated. `*`: the base form and the -s form may be nouns as well.
VERBS = """
    accept accompany adjust admire adorn advertise aim* appear applaud approach argue ascend ask assemble attach
    attack* attempt* avoid backflip* bake balance* bare* bark* bat* bathe* be become beg begin belong bend bike*
    bite* blaze blink block* blow* blur bodysurf border* bother bounce* bow* bowl* break* breakdance bring
    brush* buck* build bundle* burn* bury buy call* camp* canoe* cap* capture* carry cartwheel* carve* cast*
    catch* celebrate change* chase* chat* check* cheer chew chop circle* clap* clean* clear climb* cling close*
    clutch coast* collide come comfort* compete* connect console* contain converse cook* cover* cradle* crane*
    crash* crawl create creep crochet cross* crouch crowd* crown* cry cuddle cut* cycle* dance* dangle dart*
    dash* decorate defend deliver depict descend devour dig dine direct* discuss dismount display* dive* divide
    do* dodge drag* draw* dress* dribble* drift* drink* drip* drive* drool drop* drum* dry duck* dunk* eat
    embrace* emerge enjoy enter erupt escape escort* examine exchange* exercise* exist exit* explain explode
    explore face* fall* feature* feed* fetch fight* fill film* fire* fish* fix flee flip* float* flock* flop*
    flow* fly* fold follow frame* frighten frown* gallop* gather gaze* gesture* get give* glance glide glow
    gnaw* go grab* grasp graze greet grill* grin* grind grip* groom group* grow* growl* guard* guide* hand* hang
    happen harvest* have help* herd* hide hike* hit* hold hop* hose* host* hover huddle* hug* hula* hunt*
    hurdle* hurry include inspect interact interview* jog* join juggle jump* kayak* keep kick* kiss* kneel knit
    knock* land* lap* lasso* laugh* lay lead* lean leap* learn leave* lecture* lick* lie lift* light* like*
    line* listen live* load* locate lock* look* loom* lose lounge* love* lower make* maneuver* march* meditate
    meet* milk* mingle mount* move* mow munch nap* navigate near* need* nest* nip* nurse* nuzzle observe offer*
    open* operate oppose overlook own* pack* paddle* paint* parade* paraglide parasail park* participate pass*
    pat* patrol* peck pedal* peek* peel peer* perch* perform pet* phone* photograph* pick* picture* pile* pinch*
    pitch* place* plant* play* pluck plunge* point* poke* pose* position* pour* practice* pray* prepare present*
    press* pretend prop* protect protest* pull* punch* push* put race* raft* raise rake* rappel reach* read*
    rear* receive record* reflect* relax remain* repair rest* retrieve return* ride* ring* rip rise* roam rock*
    roll* rollerblade* rope* row* rub* run* rush* saddle* sail* salute* sample* scale* scare score* scratch*
    scream* sculpt search* seat* see seem sell separate serve* set* sew shade* shake* share* shelter* shield*
    shine shoot* shop* shout shovel* show* shower* shut signal* silhouette* sing sip* sit skate* skateboard* ski
    skid* skip* skydive sled* sleep* slice* slide* slip* smash* smell* smile* smirk* smoke* snap* snarl* sneak
    sniff* snowboard* snowshoe snuggle soak* soar somersault* speak speed* spike* spin* splash* sprawl spray*
    sprinkle sprint* squat squeeze squint squirt stack* stand* stare start* startle stay* steal steer* step*
    stomp* stop* straddle stretch* strike* stroke* stroll* strum study stuff* stumble* submerge sunbathe
    support* surf* surround suspend swarm* sweep* swim* swing* tackle* take* talk* taste* teach tear* tease
    tempt tend text* think throw* tie* tilt* top* toss* touch* tow* tower* trade* trail* train* travel* tread*
    trip* trot* trudge try* tug* tumble* turn* twirl twist type* unload* use* vault* visit* volley wade wag
    wait* wakeboard* walk* wander want wash* watch* water* waterski wave* wear weave wheel* whisper wiggle win*
    windsurf wink work* wrangle* wrap wrestle write yank yawn* yell zoom*
""".split()

IRREGULAR_VERBS = dict(
    pair.split(":")
    for pair in """
    ate:eat became:become began:begin begun:begin bent:bend bit:bite bitten:bite blew:blow blown:blow bought:buy
    bound:bind broke:break broken:break brought:bring built:build came:come caught:catch clung:cling crept:creep
    cut:cut did:do done:do dove:dive drank:drink drawn:draw drew:draw driven:drive drove:drive drunk:drink
    dug:dig dying:die eaten:eat fallen:fall fed:feed fell:fall fled:flee flew:fly flown:fly fought:fight
    gave:give given:give gone:go got:get gotten:get grew:grow ground:grind grown:grow held:hold hid:hide
    hidden:hide hit:hit hung:hang kept:keep knelt:kneel laid:lay lain:lie lay:lie laying:lie leapt:leap led:lead
    left:leave lit:light lost:lose lying:lie made:make met:meet put:put ran:run read:read ridden:ride risen:rise
    rode:ride rose:rise sang:sing sat:sit saw:see seen:see set:set sewn:sew shaken:shake shone:shine shook:shake
    shot:shoot shown:show slept:sleep slid:slide sold:sell spoke:speak spoken:speak spun:spin stole:steal
    stolen:steal stood:stand struck:strike strung:string sung:sing swam:swim swept:sweep swung:swing taken:take
    taught:teach threw:throw thrown:throw took:take tore:tear torn:tear travelling:travel trod:tread tying:tie
    used:use went:go won:win wore:wear worn:wear woven:weave written:write wrote:write
""".split()
)

# Base forms that are verbs even after a singular noun if the subject is plural: "people with black hair pose".
MOSTLY_VERBS = set(
    """
    climb dance fight gather jump look play pose run sit smile stand swim talk wait walk watch work
""".split()
)

# Verbs with little content: the preposition after them says what the picture shows ("is located left of").
LIGHT_VERBS = set(
    """
    appear be depict find locate picture place position see seem show situate visible
""".split()
)

# Verbs that give way to a directed preposition ("stands behind"), but not to "on" or "in".
POSTURES = set(
    """
    float hang hover lay lean lie park perch pose remain rest sit stand stay wait
""".split()
)

# Verbs that give way to the verb after them ("tries to catch").
CATENATIVES = set(
    """
    appear attempt begin come continue do get go help like love need prepare seem start stop try use want
""".split()
)

# Participles that describe a state; "parked by a house" is no passive.
STATES = set(
    """
    cover cross dress gather lie line locate mount park perch place position seat sit stack stand stop
""".split()
)
