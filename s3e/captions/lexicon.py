"""Word lists of the caption parser: closed classes, irregular forms, verbs, phrases. Hand-made (reconstruction).

Plain sets and dicts of lower-case words; `s3e.captions.tagger` holds the rules. Words that no list knows are judged by their
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
    again ahead airborne alike almost aloft alone also anywhere apart away back backward backwards both
    downhill downstairs downstream downwards even everywhere fast forward forwards hard headfirst here high
    how indoors inside just midway nearby not now nowhere offshore only onstage outdoors outside overhead
    quite really sideways somewhat somewhere still then there together too twice underwater uphill upside
    upstairs upstream upwards very well
""".split()
)

PREPOSITIONS = set(
    """
    aboard about above across against along alongside amid amidst among amongst around at atop behind below
    beneath beside besides between beyond by down during for from in inside into like near nearby of off on
    onto opposite out outside over past per round through throughout to toward towards under underneath up
    upon via with within without
""".split()
)

# Multi-word prepositions by label; "about to" is an auxiliary. The labels then go through `s3e.captions.parser.INVERSES`.
_BY_LABEL = {
    "about_to": "about to",
    "adverb": "arm in arm, back to back, cheek to cheek, close together, cross country, face to face, hand in hand, "
    "neck and neck, neck to neck, shoulder to shoulder, side by side, upside down",
    "across_from": "across from",
    "along": "up and down",
    "and": "as well as",
    "at": "at the base of, at the end of",
    "at_bottom_of": "at the bottom of",
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
    "toward": "in the direction of",
    "with": "along with, together with",
}
PHRASES = {phrase: label for label, phrases in _BY_LABEL.items() for phrase in phrases.split(", ")}
for _side in ("left", "right"):
    for _lead in ("", "to the ", "on the ", "at the ", "off to the ", "to ", "just ", "directly "):
        for _tail in ("of", "side of", "hand side of"):
            PHRASES[f"{_lead}{_side} {_tail}"] = f"{_side}_of"

# label -> (canonical label, do the two sides swap?)
INVERSES: dict[str, tuple[str, bool]] = {
    "right_of": ("left_of", True),
    "below": ("above", True),
    "under": ("above", True),
    "beneath": ("above", True),
    "underneath": ("above", True),
    "over": ("above", False),
    "behind": ("in_front_of", True),
    "lead": ("follow", True),
    "flee": ("chase", True),
    "inside": ("in", False),
    "into": ("in", False),
    "within": ("in", False),
    "onto": ("on", False),
    "upon": ("on", False),
    "atop": ("on_top_of", False),
    "aboard": ("on", False),
    "beside": ("next_to", False),
    "besides": ("next_to", False),
    "alongside": ("next_to", False),
    "by": ("next_to", False),
    "nearby": ("near", False),
    "towards": ("toward", False),
    "or": ("and", False),
    "plus": ("and", False),
    "but": ("and", False),
    "&": ("and", False),
    "whilst": ("while", False),
    "round": ("around", False),
    "amongst": ("among", False),
}
# Prepositions that say where one group is against another: they displace a posture verb ("stands left of") and bind
# looser than "with", "on", "in".
DIRECTED = {
    "left_of",
    "right_of",
    "above",
    "below",
    "under",
    "beneath",
    "underneath",
    "over",
    "behind",
    "in_front_of",
    "next_to",
    "beside",
    "near",
    "alongside",
}
LOOSE = DIRECTED | {"by", "across_from", "opposite"}
# Adverbs of place that leave the relation to the preposition after them: "outside on a street", "up against a wall".
PARTICLES = {"across", "along", "around", "down", "inside", "off", "out", "outside", "over", "up"}

# Nouns that only measure the noun after "of": "a group of people" is about people.
PARTITIVES = set(
    """
    array assortment back bit body bottom bunch center close-up closeup cluster collection couple crew crowd
    dozen duo edge end fleet flock front gaggle gang gathering group half handful herd hundred image kind line
    load lot majority mass middle number pack pair part photo photograph picture piece pile plenty portion
    portrait rest row series set shot side silhouette slice sort stack swarm thousand top trio type variety
    view
""".split()
)

PICTURES = set("image photo photograph picture portrait shot".split())

# Frequent compounds that become one entity, "tennis_racket": a sport with its things and people, somebody who does
# something with something ("rock climber"), and a list.
_SPORTS = "soccer football basketball baseball softball hockey rugby tennis volleyball lacrosse cricket polo badminton"
_SPORT_THINGS = "player goalie goalkeeper pitcher ball field court game match racket racquet bat glove cap helmet"
_DOERS = {
    "climber": "rock mountain ice cliff",
    "biker": "mountain dirt bmx motocross",
    "rider": "bike bicycle bmx motocross motorcycle dirt horse bull rodeo skateboard scooter",
    "racer": "bike bicycle bmx motocross motorcycle car",
    "player": "guitar drum violin accordion saxophone trumpet bagpipe ice_hockey field_hockey golf",
    "driver": "car bus taxi truck",
}
COMPOUNDS = {(sport, thing) for sport in _SPORTS.split() for thing in _SPORT_THINGS.split()}
COMPOUNDS |= {
    (*other.split("_"), doer) for doer, others in _DOERS.items() for other in others.split()
}
COMPOUNDS |= {
    tuple(pair.split("_"))
    for pair in """
    alarm_clock amusement_park apartment_building baby_carriage baby_stroller balance_beam ball_pit bar_stool
    bathing_suit bathroom_sink beach_ball beer_bottle belly_dancer birthday_cake bmx_bike board_game
    body_board boogie_board border_collie boston_terrier bounce_house bow_tie bowling_alley bowling_ball
    boxing_ring break_dancer bungee_cord bunk_bed bus_station bus_stop business_suit candy_bar candy_cane
    car_seat card_game cash_register ceiling_fan cell_phone chew_toy christmas_tree cliff_face climbing_wall
    clock_tower coffee_cup coffee_maker coffee_mug coffee_shop coffee_table coloring_book comic_book
    computer_monitor computer_mouse computer_screen construction_site construction_worker cotton_candy
    cowboy_hat cutting_board dining_room dining_table dirt_bike dirt_road diving_board dog_sled
    drinking_fountain dump_truck eye_patch face_paint field_hockey figure_skater finish_line fire_engine
    fire_escape fire_hydrant fire_station fire_truck fishing_boat fishing_pole fishing_rod flip_flop
    folding_chair french_fry frying_pan garbage_bag garbage_can gas_station german_shepherd go_cart go_kart
    golden_retriever golf_ball golf_cart golf_club golf_course grocery_bag grocery_cart grocery_store
    half_pipe hand_sign hand_signal hay_bale home_plate hot_air_balloon hot_dog hula_hoop ice_cream ice_hockey
    ice_rink ice_skate inline_skate ironing_board jack_russell jack_russell_terrier jet_ski jungle_gym
    kiddie_pool kitchen_sink knee_pad labrador_retriever lamp_post lawn_chair life_jacket life_preserver
    life_raft life_vest living_room lounge_chair martial_art martial_artist mickey_mouse microwave_oven
    monkey_bar mountain_bike mud_puddle musical_instrument nose_ring obstacle_course office_building palm_tree
    panda_bear paper_towel parallel_bar parking_garage parking_lot parking_meter peace_sign phone_booth
    phone_call pickup_truck picnic_table pine_tree ping_pong polar_bear police_car police_officer
    police_station polka_dot pool_table power_line power_plant quarter_pipe race_car race_track railroad_track
    remote_control rock_face rock_formation rock_wall rocking_chair roller_coaster roller_skate rope_bridge
    rope_ladder rope_swing running_shoe santa_claus school_bus scuba_diver security_guard sewing_machine
    shooting_range shopping_bag shopping_cart shopping_mall shower_curtain sippy_cup skate_park skate_ramp
    ski_jump ski_lift ski_pole ski_resort ski_run ski_slope sled_dog slot_machine snow_angel soap_bubble
    soda_can speed_skater sports_car squirt_gun starting_line station_wagon stop_sign street_lamp street_light
    street_sign stuffed_animal subway_car subway_station subway_train sumo_wrestler swim_cap swim_trunk
    swimming_pool swimming_trunk swing_set tabby_cat teddy_bear telephone_booth tennis_shoe theme_park
    tire_swing toilet_bowl toilet_paper toilet_seat tour_bus tow_truck toy_gun traffic_cone traffic_light
    traffic_signal train_car train_station train_track trash_bag trash_can tree_branch tree_stump tree_trunk
    trench_coat vending_machine video_camera video_game wading_pool washing_machine water_bottle
    water_fountain water_gun water_park water_slide wedding_cake wedding_dress wine_bottle wine_glass
    yorkshire_terrier zip_line
""".split()
}

# Compounds usually written as one word, for those who write two ("wet suit", "wet-suit").
CLOSED_UP = set(
    """
    airplane backpack backyard baseball basketball bathtub bookcase bookshelf cheerleader closeup countertop
    dishwasher firefighter firetruck football handstand headband headphone headscarf midair motorbike
    motorboat motorcycle nightstand paintbrush playground playpen ponytail racetrack raincoat rollerblade
    rollerblader rowboat sailboat sandbox skateboard skateboarder skydiver snowball snowboard snowboarder
    snowman snowmobile snowsuit softball speedboat suitcase surfboard surfboarder sweatshirt toothbrush
    toothpaste volleyball wakeboard waterfall wetsuit wheelbarrow wheelchair
""".split()
)
# First parts of such words and of verbs ("wind surfing").
CLOSED_UP_HEADS = set(
    """
    air back base basket bath body book break cart cheer close counter dish fire foot hand head jet kick kite mid
    motor night paint para play pony race rain roller row sail sand skate sky snow soft speed suit sun surf sweat
    tooth volley wake water wet wheel wind
""".split()
)

# Misspellings frequent in captions, and long nouns and adjectives to which `s3e.captions.words` mends a slip of one letter.
TYPOS = dict(
    pair.split(":")
    for pair in """
    accordian:accordion accross:across acoss:across acrouss:across adn:and agains:against amoung:among
    anouther:another aross:across aroud:around arround:around attemping:attempting backgound:background
    backgroud:background backround:background balck:black baloon:balloon bannana:banana bannanas:bananas
    barrior:barrier baskeball:basketball beack:beach beatiful:beautiful beautful:beautiful behinf:behind
    behing:behind beind:behind bicycel:bicycle bicylce:bicycle bicylist:bicyclist biek:bike biulding:building
    bloe:blue broccolli:broccoli brocoli:broccoli brocolli:broccoli browm:brown brwon:brown buidling:building
    bulding:building buldings:buildings buss:bus bycicle:bicycle canoo:canoe carring:carrying carying:carrying
    celing:ceiling cemetary:cemetery chidren:children childern:children childrens:children chlid:child
    cieling:ceiling climing:climbing coller:collar coloful:colorful comming:coming competiting:competing
    costum:costume dalmation:dalmatian daschund:dachshund dashund:dachshund diffrent:different dogg:dog
    eatting:eating egde:edge elehpant:elephant elephent:elephant equiptment:equipment excersizing:exercising
    exersise:exercise farward:forward feamle:female feild:field feilds:fields femal:female fense:fence
    fiels:field firsbee:frisbee foward:forward freind:friend freinds:friends fribee:frisbee frisbe:frisbee
    frisbie:frisbee frizbee:frisbee fronmt:front fronr:front gaurd:guard gilr:girl giong:going girafe:giraffe
    giraff:giraffe girraffe:giraffe gorup:group gound:ground graffitti:graffiti grafitti:graffiti gras:grass
    grassey:grassy gril:girl grils:girls grond:ground groung:ground groupe:group guitare:guitar guiter:guitar
    hankerchief:handkerchief harnass:harness helment:helmet helmut:helmet hemlet:helmet hoddie:hoodie
    hodling:holding holidng:holding hsirt:shirt hte:the jacekt:jacket jaket:jacket jersay:jersey jersy:jersey
    juming:jumping jumpin:jumping kichen:kitchen labordor:labrador laddar:ladder layed:laid leafs:leaves
    litle:little littel:little litttle:little motercycle:motorcycle motocycle:motorcycle motorcross:motocross
    mountian:mountain mountians:mountains mountin:mountain moutain:mountain moutains:mountains naer:near
    neaby:nearby neclace:necklace ocaen:ocean osme:some otuside:outside ouside:outside outisde:outside
    palid:plaid palying:playing pedestrain:pedestrian peole:people peolple:people peopel:people peple:people
    perosn:person picutre:picture plaing:playing playgroud:playground playin:playing poddle:poodle
    poeple:people portait:portrait ppl:people recieve:receive recieving:receiving refridgerator:refrigerator
    restarant:restaurant restaraunt:restaurant restraunt:restaurant restuarant:restaurant resturant:restaurant
    retreiver:retriever retreiving:retrieving retriving:retrieving ridding:riding rollarblades:rollerblades
    rotweiler:rottweiler runing:running runnning:running samll:small sandwhich:sandwich sandwitch:sandwich
    scisors:scissors seperate:separate seperated:separated serveral:several sevral:several sheperd:shepherd
    shephard:shepherd shirst:shirt shoping:shopping shrit:shirt sidewak:sidewalk sidwalk:sidewalk
    siting:sitting sittin:sitting skatboard:skateboard skatebord:skateboard skii:ski skiier:skier
    skiiers:skiers skiiing:skiing skiis:skis slepping:sleeping smal:small smilling:smiling somone:someone
    sourrounded:surrounded spagetti:spaghetti stading:standing standig:standing staning:standing steet:street
    streeet:street stret:street stripped:striped sufer:surfer surfbord:surfboard surounded:surrounded
    surronded:surrounded sveral:several sweather:sweater swiming:swimming tabel:table talbe:table tatoo:tattoo
    tatooed:tattooed tattoed:tattooed teh:the tenis:tennis tennnis:tennis terrior:terrier thier:their
    thorugh:through throught:through thru:through togather:together tolet:toilet toliet:toilet toung:tongue
    tounge:tongue trian:train trys:tries umberella:umbrella umbrela:umbrella unbrella:umbrella
    vechicle:vehicle vegatables:vegetables vegtables:vegetables vehical:vehicle veiw:view waching:watching
    waering:wearing wakling:walking walkin:walking waring:wearing wating:waiting watter:water weaing:wearing
    wearign:wearing wetsuite:wetsuit whiel:while whit:white wich:which wiht:with wildebeast:wildebeest
    witht:with woamn:woman womans:woman womens:women womn:woman wth:with wtih:with wuth:with yong:young
    youg:young youn:young yound:young zeebra:zebra
""".split()
)
LONG_WORDS = set(
    """
    advertisement airplane amusement apartment athletic audience background backpack backyard balloon banana
    bandanna baseball basketball bathroom beautiful bedroom bicycle bicyclist birthday blanket broccoli
    building business camouflage cardboard carnival carriage ceiling cellphone cheerleader chocolate cigarette
    clothing cobblestone colorful competition computer construction container costume countryside courtyard
    crosswalk dachshund dalmatian dandelion daughter decoration different direction distance elephant
    enclosure equipment expression firefighter fireplace fisherman football foreground formation fountain
    frisbee furniture gentleman giraffe graffiti greyhound guitarist handlebar handrail handstand headband
    headphone headscarf helicopter hillside horseback hospital hydrant individual instrument intersection
    keyboard kitchen lacrosse landscape luggage magazine microphone microwave monument motocross motorbike
    motorcycle motorcyclist mountain mountainside mountaintop musician necklace neighborhood newspaper
    obstacle onlooker opponent pacifier parachute parallel passenger pavement pedestrian performance performer
    photograph photographer platform playground policeman protective racetrack railroad raincoat refrigerator
    restaurant retriever rollerblader rottweiler sailboat sandwich sculpture shepherd shirtless shoreline
    shoulder sidewalk silhouette skateboard skateboarder snowball snowbank snowboard snowboarder snowsuit
    softball spaghetti spectator sprinkler staircase stairway stroller structure sunglasses surfboard
    sweatshirt swimsuit teammate teenager telephone telescope television toothbrush trampoline tricycle
    tropical umbrella underwear uniform vegetable vehicle volleyball wakeboarder waterfall waterskier
    wheelchair wildebeest windsurfer woodland wrestler
""".split()
)

IRREGULAR_NOUNS = dict(
    pair.split(":")
    for pair in """
    aches:ache axes:axe axis:axis bases:base beanies:beanie bikinis:bikini birdies:birdie bison:bison
    blouses:blouse bookcases:bookcase brownies:brownie bruises:bruise buses:bus businessmen:businessman
    busses:bus caches:cache calories:calorie calves:calf canoeists:canoeist canoes:canoe cases:case
    causes:cause cheeses:cheese children:child collies:collie cookies:cookie corpses:corpse courses:course
    dice:die doses:dose equipments:equipment excuses:excuse feet:foot firemen:fireman fishermen:fisherman
    fungi:fungus furnitures:furniture geese:goose genies:genie gentlemen:gentleman grandchildren:grandchild
    greenhouses:greenhouse halves:half headaches:headache hearses:hearse hoodies:hoodie hooves:hoof
    horses:horse horseshoes:horseshoe hoses:hose houses:house kiwis:kiwi knives:knife ladies:lady leaves:leaf
    lens:lens licenses:license lighthouses:lighthouse lives:life loaves:loaf luggages:luggage men:man
    mice:mouse mittens:mitten mongooses:mongoose mooses:moose movies:movie mustaches:mustache noses:nose
    nurses:nurse oases:oasis oxen:ox people:people persons:person phrases:phrase pies:pie policemen:policeman
    policewomen:policewoman poses:pose potatoes:potato purses:purse races:race rookies:rookie roses:rose
    scarves:scarf selfies:selfie shelves:shelf shoes:shoe skis:ski smoothies:smoothie snowmen:snowman
    spouses:spouse staircases:staircase suitcases:suitcase taxis:taxi teeth:tooth thieves:thief ties:tie
    toes:toe vases:vase veggies:veggie waitresses:waitress wives:wife wolves:wolf women:woman zombies:zombie
    zucchinis:zucchini
""".split()
)

# Plural without a singular (or equal to it).
PLURAL_ONLY = set(
    """
    binoculars cattle clothes deer fish glasses goggles jeans leggings overalls pajamas pants people personnel
    police pyjamas scissors sheep shorts sunglasses sweatpants tights tongs trousers
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
    anything awning bedding beijing bling building carving ceiling clothing duckling earring evening fling
    flooring frosting icing king lettering lighting lightning morning painting parasailing piercing pudding
    railing rigging ring scaffolding seating shipping sibling siding sling something spring sterling stocking
    string stuffing swing thing topping viking wedding wing
""".split()
)

NOUNS_IN_LY = set(
    """
    ally assembly belly bully butterfly dolly dragonfly family firefly fly gully holly jelly lily supply trolley
""".split()
)

NOUNS_IN_ED = set(
    """
    bed bobsled breed creed dogsled feed flatbed hundred milkweed moped need newlywed red reed riverbed seabed
    seaweed seed shed sled speed steed streambed thoroughbred toboggan tumbleweed tweed waterbed weed
""".split()
)

ADJECTIVES = set(
    """
    abandoned able adult aerial african african-american aged alive amber american ancient angry arabic asian
    asleep athletic attentive average awkward back bald bare bare-chested barefoot barren bearded beautiful
    beige big bigger biggest black blond blonde blue bluish blurry bouncy bright broad brown brunette bumpy
    busy calm casual caucasian ceramic checked checkered cheerful chinese choppy chubby clean clear closed
    cloudy cluttered cold colonial colored colorful colourful commercial complete concrete cooked cool covered
    cream crimson crisp crowded curly cute cyan dangerous dark dead decorated deep delicious different dirty
    distant dotted double dry dull dusty early eastern elderly electric electronic elegant empty enormous
    european excited facial fake fancy fat female fit flat floppy fluffy fluorescent foggy foreign formal free
    fresh front frozen full funny furry fuzzy gentle german giant glassy gold golden good grassy gray grayish
    great green greenish grey haired hairy half happy hard hazy heavy high hispanic homeless hooded horizontal
    hot huge icy indian indoor inflatable inner ivory jagged japanese laden large larger largest late lavender
    leafless leafy lean leather left light lit little lively lone long lovely low lower lush magenta main male
    maroon massive matching medium metal middle middle-aged military military-style miniature misty modern
    muddy multicolored murky muscular musical naked navy nearby neat new nice nude old older open opposing
    orange oriental ornate other outdoor outdoors outer overturned overweight own pale parked patterned petite
    pink plaid plain plastic playful plump pointy pretty professional protective public purple quaint quiet
    raw ready real rear red reddish residential right ripe rival rocky rough round rural rustic sad same sandy
    scarlet scary scenic several shaggy shallow sharp shaven shiny shirtless short silly silver similar single
    sizable sizeable skinny sleek sleepy slender sliced slim small smaller smallest smooth snowcapped snowy
    soft spiky spotted square stainless steep stone stony stout straight strange striped strong sturdy sunny
    tall tan teal teenage thick thin tiled tiny tired top topless triple tropical turquoise unlit unusual
    upper upside urban various vast vertical vintage violet vivid warm wavy wee western wet white whole wide
    wood wooded wooden woody yellow young younger
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
    accept accompany adjust admire adore adorn advertise aim* appear applaud apply approach argue arrange
    arrive ascend ask assemble assist* attach attack* attempt* avoid await backflip* backpack* bake balance*
    bare* bark* bat* bathe* battle* be bear beat* become beg begin belong bend bicycle* bike* bite* blaze
    blink block* blow* blur board* bodysurf border* bother bounce* bound* bow* bowl* box* brace* break*
    breakdance bring brush* buck* build bump* bundle* burn* burrow* bury buy call* camp* canoe* cap* capture*
    carry cartwheel* carve* cast* catch* cause* cavort celebrate challenge* change* charge* chase* chat*
    check* cheer chew chomp* chop circle* clap* clasp* clean* clear climb* cling close* clutch coach* coast*
    collect collide come comfort* compete* complete* compose connect console* contain converse cook* cover*
    cradle* crane* crash* crawl create creep crochet cross* crouch crowd* crown* cry cuddle curl* cut* cycle*
    damage* dance* dangle dart* dash* decorate defend deliver demonstrate depict descend devour dig dine dip*
    direct* discuss dismount display* dive* divide do* dodge drag* drape* draw* dress* dribble* drift* drill*
    drink* drip* drive* drool drop* drum* dry duck* dump* dunk* eat embrace* emerge encourage engage enjoy
    enter erupt escape escort* examine exchange* excite exercise* exhibit exist exit* explain explode explore
    extend face* fall* feature* feed* fetch fight* fill film* fire* fish* fix flail flap* flash* flee flex
    fling* flip* float* flock* flop* flow* fly* fold follow frame* frighten frolic* frown* gallop* gamble
    gather gaze* gesture* get giggle* give* glance glide glow gnaw* go grab* grasp graze greet grill* grimace*
    grin* grind grip* groom group* grow* growl* guard* guide* guzzle hand* handle* hang happen harness*
    harvest* haul* have head heave* help* herd* hide hike* hit* hold hop* hose* host* hover howl* huddle* hug*
    hula* hunch hunt* hurdle* hurl* hurry ignore include indicate inflate inject injure inspect interact
    interview* jog* join juggle jump* kayak* keep kick* kiss* kitesurf kneel knit knock* land* lap* lasso*
    laugh* launch* lay lead* lean leap* learn leave* lecture* lick* lie lift* light* like* line* listen
    litter* live* load* locate lock* look* loom* lose lounge* love* lower lurch* make* manage maneuver* march*
    mark* measure* meditate meet* melt* milk* mimic mingle mount* move* mow munch nap* navigate near* need*
    nest* nibble* nip* nod* nurse* nuzzle* observe offer* open* operate oppose overlook own* pack* paddle*
    paint* parade* paraglide parasail park* participate pass* pat* patrol* pause* peck pedal* peddle peek*
    peel peep* peer* perch* perform perk pet* phone* photograph* pick* picture* pile* pilot* pinch* pitch*
    place* plant* play* pluck plunge* point* poise poke* pop* pose* position* pounce* pour* pout* practice*
    prance pray* prepare present* press* pretend produce* prop* propel protect protest* pull* punch* punt*
    purchase* pursue push* put race* raft* raise rake* ram* range rappel reach* read* ready rear* receive
    record* reflect* rehearse relax remain* remove repair repel replace rest* retrieve return* reveal ride*
    ring* rip rise* roam rock* roll* rollerblade* rollerskate rollerskate* romp* rope* row* rub* run* rush*
    saddle* sail* salute* sample* say scale* scare score* scramble* scrape* scratch* scream* scrub* sculpt
    search* seat* see seem sell separate serve* set* sew shade* shake* share* shave* shelter* shield* shine
    shoot* shop* shout shovel* show* shower* shut signal* silhouette* sing sip* sit skate* skateboard* ski
    skid* skip* skydive sled* sleep* slice* slide* sling slip* slouch* slump smack* smash* smell* smile*
    smirk* smoke* snap* snarl* sneak sniff* snorkel* snowboard* snowshoe snuggle soak* soar socialize
    somersault* soothe spar speak speed* spike* spin* spit* splash* sport sprawl spray* spread* sprinkle
    sprint* squat* squeeze squint squirt stack* stain* stand* star* stare start* startle stay* steady steal
    steer* step* stick* stir* stomp* stop* straddle strain* strap* stretch* strike* stroke* stroll* struggle*
    strum study stuff* stumble* submerge suck* sunbathe support* surf* surround suspend swarm* swat* sway*
    sweep* swim* swing* swoop* tackle* take* talk* tap* target* taste* teach tear* tease tempt tend terrorize
    text* think throw* tie* tilt* top* toss* touch* tow* tower* trade* trail* train* travel* traverse tread*
    trek* trip* trot* trudge try* tuck* tug* tumble* turn* tussle* twirl twist type* unload* urinate use*
    vault* videotape* visit* volley wade wag wait* wakeboard* walk* wallow wander want wash* watch* water*
    waterski wave* wear weave weep wheel* whip* whisper wield wiggle win* windsurf wink wipe* work* wrangle*
    wrap wrestle wriggle write yank yawn* yell zoom*
""".split()

IRREGULAR_VERBS = dict(
    pair.split(":")
    for pair in """
    ate:eat awoke:awake beaten:beat became:become began:begin beginning:begin begun:begin bent:bend bit:bite
    bitten:bite blew:blow blown:blow bought:buy bound:bind broke:break broken:break brought:bring built:build
    burnt:burn burst:burst came:come caught:catch clothed:clothe clung:cling crept:creep cut:cut did:do
    done:do dove:dive drank:drink drawn:draw drew:draw driven:drive drove:drive drunk:drink dug:dig dying:die
    eaten:eat fallen:fall fed:feed fell:fall felt:feel fled:flee flew:fly flown:fly flung:fling fought:fight
    frolicked:frolic frolicking:frolic gave:give given:give gone:go got:get gotten:get grew:grow grown:grow
    heard:hear held:hold hid:hide hidden:hide hit:hit hitting:hit hung:hang hurt:hurt kept:keep knelt:kneel
    laid:lay lain:lie lay:lie leaped:leap leapt:leap led:lead left:leave lent:lend lit:light lost:lose
    lying:lie made:make met:meet mimicking:mimic paid:pay picnicking:picnic propelled:propel propelling:propel
    put:put ran:run rappelled:rappel rappelling:rappel read:read repelled:repel repelling:repel ridden:ride
    risen:rise rode:ride rose:rise said:say sang:sing sank:sink sat:sit saw:see seen:see sent:send set:set
    sewn:sew shaken:shake shaven:shave shone:shine shook:shake shot:shoot shown:show slept:sleep slid:slide
    slung:sling sold:sell sought:seek spent:spend spoke:speak spoken:speak spread:spread spun:spin
    squatting:squat stole:steal stolen:steal stood:stand struck:strike strung:string stuck:stick sung:sing
    sunk:sink swam:swim swept:sweep swung:swing taken:take taught:teach threw:throw thrown:throw thrust:thrust
    told:tell took:take tore:tear torn:tear travelling:travel trod:tread tying:tie used:use went:go woke:wake
    won:win wore:wear worn:wear wound:wind woven:weave written:write wrote:write
""".split()
)

# Singular nouns with a plural verb ("a couple walk"), and nouns that are seldom the first part of a compound: a verb in
# its base form after them is an error of agreement ("a man ride a horse").
COLLECTIVES = set("audience band class couple crowd duo family group pair team trio".split())
PERSONS = set("boy child girl guy kid lady man person woman".split())

# "watches a boy steer a boat": verbs with an object that does something.
PERCEPTION = set("help let make see watch".split())

# "a woman rock climbing": the noun is part of the verb.
ACTIVITIES = set(
    """
    arm_wrestling bull_riding bungee_jumping cliff_climbing crowd_surfing dog_paddling fire_breathing
    fly_fishing horse_racing horse_riding ice_climbing ice_fishing ice_skating mountain_biking
    mountain_climbing mud_wrestling rock_climbing roller_skating scuba_diving sword_fighting tree_climbing
    wall_climbing
""".split()
)

# "with her hair flying": what such a noun does says nothing about the subject.
BODY = set(
    "arm ear eye face finger foot hair hand head knee leg mouth paw tail tongue tooth".split()
)

# Verbs of clothing: they only describe who does something else.
CLOTHING = set("clothe dress wear".split())

# Base forms that are verbs even after a singular noun if the subject is plural: "people with black hair pose".
MOSTLY_VERBS = set(
    """
    climb dance fight gather jump look play pose run sit smile stand swim talk wait walk watch work
""".split()
)

# Verbs with little content: the preposition after them says what the picture shows ("is located left of").
LIGHT_VERBS = set(
    """
    appear be depict find get go locate picture place position see seem show situate visible
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

# Participles that tell of the noun just before them: "in a field covered with snow".
DESCRIBING = set(
    "cover decorate fill hold line litter make pave smear surround suspend top wrap write".split()
)

# Participles that describe a state; "parked by a house" is no passive.
STATES = set(
    """
    cross dress gather lie locate mount park perch place position seat sit stack stand stop
""".split()
)
